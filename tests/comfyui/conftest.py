from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.comfyui.checkpoints import write_broken, write_heavy, write_quantized
from tests.comfyui.server import Server, checkout


@pytest.fixture(scope="session", params=["COMFYUI_PATH", "COMFYUI_OLDEST_PATH"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real ComfyUI with the pack, and checkpoints among its models that are broken, large or quantized: the one at
    hand, and the oldest that pyproject.toml promises to work with."""
    comfyui = checkout(request.param)
    if comfyui is None:
        pytest.skip(f"{request.param} names no ComfyUI to start (and COMFYUI_PYTHON its Python)")
    folder: Path = tmp_path_factory.mktemp("comfyui")
    write_broken(folder / "models" / "janus" / "broken")
    write_heavy(folder / "models" / "janus" / "heavy")
    write_quantized(folder / "models" / "janus" / "fp8", torch.float8_e4m3fn)
    with Server(comfyui, folder) as own:
        yield own
