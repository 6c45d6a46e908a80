"""Takes the README's pictures of the page after a run, in both renderers: `make screenshots`, once they look different.

COMFYUI_PATH names the ComfyUI that runs, COMFYUI_PYTHON its Python. Needs a Chromium of the system.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from playwright.sync_api import sync_playwright

from tests import workflows
from tests.comfyui.server import PACK, Server, checkout
from tests.web.browser import Tab, chromium, launch
from tests.web.conftest import RENDERERS

VIEW: Any = {"width": 1340, "height": 1010}
PLACES = {  # and sizes
    "SSDJanusLoad": ((0, 0), (340, 82)),
    "SSDJanusCompression": ((0, 170), (340, 430)),
    "SSDJanusSampler": ((390, 0), (400, 850)),
    "SaveImage": ((840, 0), (360, 340)),
    "SSDJanusReadout": ((840, 400), (360, 330)),
}
# no first-time dialog, map or frame rate over it
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False}
PROMPT, SEED, IMAGES = "a red circle and a blue ring", 3, 4


def graph() -> dict[str, Any]:
    """The shared workflow for one picture, closer together, without its note, and of four pictures."""
    shared = workflows.graph("Text to image")
    shared["nodes"] = [node for node in shared["nodes"] if node["type"] in PLACES]
    for node in shared["nodes"]:
        node["pos"], node["size"] = PLACES[node["type"]]
        if node["type"] == "SSDJanusSampler":
            named = dict(zip(("prompt", "negative", "seed", "control", "images"), node["widgets_values"], strict=False))
            named |= {"prompt": PROMPT, "seed": SEED, "images": IMAGES}
            node["widgets_values"] = [*named.values(), *node["widgets_values"][len(named) :]]
    shared["extra"]["ds"] = {"scale": 1, "offset": [70, 120]}
    return shared


def main() -> None:
    comfyui = checkout()
    if comfyui is None or chromium() is None:
        raise SystemExit("Say where a ComfyUI is (make screenshots COMFYUI_PATH=...) and install a Chromium.")
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(comfyui, Path(folder)) as server,
        sync_playwright() as playwright,
    ):
        server.post("/settings", SETTINGS)
        browser = launch(playwright)
        for name, value in RENDERERS.items():
            server.post("/settings", {"Comfy.VueNodes.Enabled": value})
            tab: Any = Tab(browser, SimpleNamespace(address=f"http://127.0.0.1:{server.port}"), name)  # type: ignore[arg-type]
            tab.page.set_viewport_size(VIEW)
            tab.load(graph())
            tab.page.evaluate("() => app.queuePrompt(0)")
            tab.meters("done").nth(1).wait_for()
            tab.page.wait_for_timeout(9000)  # until pictures are there and what pops up has gone
            tab.screenshot(PACK / "docs" / f"comfyui-{name}.png")
            tab.page.close()
        browser.close()


if __name__ == "__main__":
    main()
