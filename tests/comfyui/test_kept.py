"""Small weights in ComfyUI's own hands: quantized files as they are, and models of which only a part is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.comfyui.checkpoints import write_quantized
from tests.comfyui.server import checkout

KL = {  # the most that they may cost, in nats a token
    "float8_e4m3fn": 1e-5,
    "float8_e5m2": 5e-5,
    "int8_tensorwise": 1e-6,
    "scaled_fp8": 1e-5,
    "fp8": 1e-5,
    "int8": 1e-6,
    "int4": 1e-4,
    "nf4": 2e-4,
}
COPIES = {
    "float8_e4m3fn": (torch.float8_e4m3fn, False),
    "float8_e5m2": (torch.float8_e5m2, False),
    "int8_tensorwise": (torch.int8, False),
    "scaled_fp8": (torch.float8_e4m3fn, True),
}


@pytest.fixture(scope="module", params=["COMFYUI_PATH", "COMFYUI_OLDEST_PATH"])
def comfyui(request: pytest.FixtureRequest) -> Path:
    """The checkout at hand, and the oldest that will do."""
    found = checkout(request.param)
    if found is None:
        pytest.skip(f"{request.param} names no ComfyUI (and COMFYUI_PYTHON its Python)")
    return found


def told(script: str, *arguments: Path) -> dict[str, Any]:
    """What a script beside this file prints."""
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    command = [python, str(Path(__file__).with_name(script)), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr[-4000:]
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


@pytest.fixture(scope="module")
def seen(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What kept.py says."""
    folder = tmp_path_factory.mktemp("copies")
    for name, (kept, old) in COPIES.items():
        write_quantized(folder / name, kept, old)
    return told("kept.py", comfyui, folder)


def test_choices_are_comfyui_s_and_the_engine_s(seen: dict[str, Any]) -> None:
    assert seen["choices"][:5] == ["auto", "full", "fp8", "int8", "int4"]
    assert {"float8_e4m3fn", "float8_e5m2"} <= {*seen["works"]}


@pytest.mark.parametrize("name", COPIES)
def test_a_quantized_file_stays_as_it_is(seen: dict[str, Any], name: str) -> None:
    copy = seen["copies"][name]
    if name not in (*seen["works"], "scaled_fp8"):  # int8 came to ComfyUI later
        assert copy["bytes"] == copy["bytes in full"]
    else:
        assert copy["bytes"] < 0.5 * copy["bytes in full"]
    assert copy["planned"] == copy["counted"]
    assert copy["kl to full"] < 1e-10
    assert copy["drawn as in full"] == 1
    assert copy["different tokens"] > 10
    assert 1e-9 < copy["kl to plain"] < KL[name]
    assert copy["drawn as plain"] > 0.95


def test_a_model_that_is_loaded_in_part_computes_where_it_should(seen: dict[str, Any]) -> None:
    assert {"fp8", "int8", "int4"} <= {*seen["choice"]}
    for weights, own in seen["choice"].items():
        assert own["places"] == ["cpu", "meta"], weights
        assert own["wholly"] == ["meta"], weights  # so that a graph can hold the step
        assert 0 < own["on the card"] < own["bytes"], weights
        assert own["mixed"] == [], weights
        assert own["partly as wholly"] == 1, weights
        assert 1e-9 < own["kl to plain"] < KL[weights], weights
        assert own["drawn as plain"] > 0.95, weights


def test_dynamic_vram_brings_each_matrix_by_itself(comfyui: Path) -> None:
    choices = told("staged.py", comfyui)
    assert {"auto", "fp8", "int8", "int4"} <= {*choices}
    for weights, own in choices.items():
        assert own["mixed"] == [], weights
        assert own["places"] == ["cpu"], weights
        assert own["brought"] == [2] * 6 * (7 if weights == "fp8" else 4), weights  # for the prompt, for the step
