"""The tests of Triton's kernel, in processes of their own: Triton decides once whether it compiles or interprets."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(
    not importlib.util.find_spec("triton"), reason="takes Triton, which Linux has: pip install triton"
)


def run(cases: str, interpret: bool) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / cases)]
    environment = {**os.environ, "TRITON_INTERPRET": str(int(interpret))}
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


@needs_triton
def test_the_kernel_in_the_interpreter() -> None:
    run("triton_cases.py", interpret=True)


@needs_triton
def test_the_kernel_compiles_for_gpus_that_are_not_here() -> None:
    run("triton_targets.py", interpret=False)


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="takes a GPU")
def test_the_kernel_on_this_gpu() -> None:
    run("triton_cases.py", interpret=False)
