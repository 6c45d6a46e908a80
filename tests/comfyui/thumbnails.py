"""Draws the thumbnails of the shared workflows from what they make: `make thumbnails`, once the weights have changed.

COMFYUI_PATH names the ComfyUI that runs them, COMFYUI_PYTHON its Python.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from tests import workflows
from tests.comfyui.server import Server, checkout

FEW, LARGE, SMALL = 2, 384, 256  # up to FEW pictures are LARGE, in pixels; more are SMALL
COLUMNS = 4
GAP = 4  # pixels of ground on each side of a picture
GROUND = (32, 32, 36)


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of any size side by side, each in a square of its own."""
    side = LARGE if len(pictures) <= FEW else SMALL
    columns = min(len(pictures), COLUMNS)
    whole = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), GROUND)
    inside = side - 2 * GAP
    for place, picture in enumerate(pictures):
        how = Image.Resampling.NEAREST if max(picture.size) < inside else Image.Resampling.LANCZOS
        framed = ImageOps.expand(ImageOps.pad(picture, (inside, inside), how, GROUND), GAP, GROUND)
        whole.paste(framed, (place % columns * side, place // columns * side))
    return whole


def main() -> None:
    comfyui = checkout()
    if comfyui is None:
        raise SystemExit("Say where a ComfyUI is: make thumbnails COMFYUI_PATH=... (and COMFYUI_PYTHON=... its Python)")
    with tempfile.TemporaryDirectory() as folder, Server(comfyui, Path(folder)) as server:
        for name in workflows.NAMES:
            run = server.run(workflows.prompt(name), workflows.graph(name))
            if run.end[0] != "execution_success":
                raise SystemExit(f"{name} did not run: {run.end[1]}")
            sheet(server.pictures(run)).save(workflows.FOLDER / f"{name}.jpg", quality=90)


if __name__ == "__main__":
    main()
