from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssd_core.models.checkpoint.files import find
from tests.nodes import stand_in
from tests.tiny import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a copy of the embedded model under each name where a Janus may lie."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("janus", "Janus-Pro"):
        shutil.copytree(find("janus-shapes"), folder / kind / f"mine-{kind}")
    (folder / "janus" / "notes").mkdir()
    (folder / "secret").mkdir()
    (folder / "secret" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def comfy(models: Path) -> SimpleNamespace:
    """The pack's nodes by their ids, and ComfyUI's memory manager."""
    pack, management = stand_in.load_pack(models)
    extension = asyncio.run(pack.comfy_entrypoint())
    nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    preview = sys.modules[f"{stand_in.PACK}.nodes.preview"]
    preview.time = SimpleNamespace(monotonic=lambda: 0.0)  # type: ignore[attr-defined]  # none takes any, none is late
    return SimpleNamespace(nodes=nodes, management=management, preview=preview)


@pytest.fixture
def held(comfy: SimpleNamespace) -> Any:
    """A tiny model in the hands of the memory manager."""
    comfy.management.interrupt_after = None
    model = tiny(rows=6, columns=4)
    return SimpleNamespace(model=model, device=torch.device("cpu"), on_device=lambda needed: model, head_maps={})
