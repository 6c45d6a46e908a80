"""A model whose weights ComfyUI holds back, as with DynamicVRAM, with --lowvram and --novram. Needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.comfyui.server import checkout


def test_a_model_computes_on_the_card_wherever_its_weights_are_kept() -> None:
    comfyui = checkout()
    if comfyui is None:
        pytest.skip("COMFYUI_PATH names no ComfyUI (and COMFYUI_PYTHON its Python)")
    python, script = os.environ.get("COMFYUI_PYTHON", sys.executable), Path(__file__).with_name("placed.py")
    done = subprocess.run([python, str(script), str(comfyui)], capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr[-4000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["computed"] == dict.fromkeys(("keys", "logits", "picture", "tokens"), "meta")
    assert seen["weights"] == ["cpu"]
    assert seen["not moved"] == ["text.weight"]
    assert seen["drawn"] == seen["drawn by the engine's own layers"]
    assert len({*seen["drawn"]}) > 3
