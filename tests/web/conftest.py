"""The page, the browser and a recorded run for the tests of web/."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.nodes import stand_in
from tests.nodes.object_info import object_info
from tests.web.graphs import GRAPH, graph
from tests.web.recording import PROMPT, Message, record

ROOT = Path(__file__).parents[2]
NEEDED = ("aiohttp", "comfyui_frontend_package", "playwright")
RENDERERS = {"classic": False, "nodes2": True}  # Comfy.VueNodes.Enabled


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pack's nodes by their ids."""
    pack, _ = stand_in.load_pack(tmp_path_factory.mktemp("models"))
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="package")
def run(nodes: dict[str, Any]) -> list[Message]:
    """A recorded run."""
    return record(nodes)


@pytest.fixture(scope="package")
def server(nodes: dict[str, Any]) -> Iterator[Any]:
    """The stand-in for ComfyUI's server, with the pack's nodes and a few of ComfyUI's own."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"no browser tests without {', '.join(missing)}: pip install -e '.[dev]'")
    from tests.web.browser import chromium
    from tests.web.server import Server

    if chromium() is None:
        pytest.skip("no browser tests without Chromium: apt-get install chromium")
    own = object_info([node.define_schema() for node in nodes.values()])
    core = json.loads((Path(__file__).parent / "core_nodes.json").read_text())
    frontend = find_spec("comfyui_frontend_package")
    assert frontend is not None
    assert frontend.origin is not None
    page = Path(frontend.origin).parent / "static"
    server = Server(page, ROOT / "web", core | own)
    server.graphs[PROMPT["prompt_id"]] = GRAPH
    yield server
    server.close()


@pytest.fixture(scope="package", params=RENDERERS)
def window(request: pytest.FixtureRequest, server: Any, run: list[Message]) -> Iterator[Any]:
    """The page in a browser, drawn by each renderer. The run was recorded before: Playwright keeps this thread's event
    loop to itself."""
    from playwright.sync_api import sync_playwright

    from tests.web.browser import Tab, launch

    server.settings["Comfy.VueNodes.Enabled"] = RENDERERS[request.param]
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield Tab(browser, server, request.param)
        browser.close()


@pytest.fixture
def tab(window: Any) -> Iterator[Any]:
    """The page, which must report no error of the pack in a test."""
    yield window
    errors, window.errors = window.errors, []
    assert errors == []


@pytest.fixture
def opened(tab: Any) -> Any:
    """The page with the graph as one who never ran it sees it."""
    tab.page.evaluate("localStorage.clear()")
    tab.load(graph())
    return tab
