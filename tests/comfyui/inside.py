"""For scripts that run inside a checkout of ComfyUI, in its Python, without its server."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from launch import declare_missing_operators  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[2]


def begin(checkout: str) -> torch.library.Library | None:
    """Make a checkout importable, on the processor; what is returned must be kept."""
    sys.path[0] = checkout
    kept: torch.library.Library | None = declare_missing_operators()
    import comfy.cli_args
    import utils  # type: ignore[import-not-found, unused-ignore]  # noqa: F401  before comfy/utils.py stands for it

    comfy.cli_args.args.cpu = True
    return kept


def load_pack() -> None:
    """Import the pack as `ssd_janus`."""
    spec = importlib.util.spec_from_file_location(
        "ssd_janus", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["ssd_janus"] = pack = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pack)
