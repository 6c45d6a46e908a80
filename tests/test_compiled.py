"""What a compiled step draws, beside the plain one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd_core import ADSA, SSD, Diagonal, Full, HeadKV, Policy, UserError, Window, generate
from ssd_core.compiled import KNOWN
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep, RankingPolicy, View
from ssd_core.policies.base import uniform
from tests.table import HEADS, UNEQUAL, WARM, check_sentence, model_of
from tests.tiny import tiny

ROOT = Path(__file__).parents[1]
needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="compiling takes a C++ compiler")


@dataclass(frozen=True)
class Asked(RankingPolicy):
    """Ranks by what the newest queries make of the keys."""

    budget: int
    refresh: int = 2
    scores = False

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        return uniform(Keep(self.budget, pinned=2, ranked=True), geometry)

    def queries(self, geometry: Geometry) -> int:
        return 3

    def priority(self, view: View) -> Tensor:
        return torch.einsum("nqgd,nsd->ns", view.queries, view.keys)


@needs_compiler
@pytest.mark.parametrize(
    ("policy", "kv_heads"),
    [
        (Full(), 4),
        (Window(9), 2),
        (SSD(12, head_map=HEADS), 4),
        (Asked(7), 2),
        (ADSA(9, refresh=2, recent=2, offload=True), 4),
        (HeadKV(11, type_at=9, local=3), 4),
    ],
    ids=["full", "window", "ssd", "by queries", "adsa, offloaded", "headkv"],
)
def test_a_compiled_step_draws_what_the_plain_one_draws(policy: Policy, kv_heads: int) -> None:
    model = model_of(kv_heads)
    plain, compiled = (
        generate(model, UNEQUAL, policy, images_per_prompt=2, temperature=WARM, step=step)
        for step in ("plain", "compiled")
    )
    assert compiled.tokens.equal(plain.tokens)
    assert (plain.step, compiled.step) == ("plain", "compiled")
    known = set(KNOWN)
    again = generate(model, UNEQUAL, policy, images_per_prompt=2, temperature=WARM, seed=5, step="compiled")
    assert again.tokens.equal(generate(model, UNEQUAL, policy, images_per_prompt=2, temperature=WARM, seed=5).tokens)
    assert known == KNOWN  # the same sizes take no second compilation


@needs_compiler
def test_what_was_compiled_for_one_drawing_is_not_taken_for_another() -> None:
    model = tiny(rows=3, columns=4)
    kept = {"start": torch.zeros(1, 12, dtype=torch.int64), "keep": torch.arange(12) % 3 == 1}
    cases: list[tuple[int, float, dict[str, Any]]] = [(1, 3.0, {}), (2, 3.0, {}), (1, 2.0, {}), (1, 3.0, kept)]
    for images, guidance, begun in cases:
        plain, compiled = (
            generate(model, ["ab"], Window(9), images, guidance=guidance, temperature=WARM, step=step, **begun)
            for step in ("plain", "compiled")
        )
        assert compiled.tokens.equal(plain.tokens)


@needs_compiler
def test_a_longer_prompt_takes_no_second_compilation_and_spoils_none() -> None:
    """Until positions go beyond the table that they are rotated by."""
    model, before = tiny(rows=3, columns=4, seed=7), len(KNOWN)
    for prompt, compilations in (("ab", 1), ("abcdefgh", 1), ("ab", 1), ("a" * 300, 2), ("ab", 3), ("a" * 300, 3)):
        plain, compiled = (generate(model, [prompt], Full(), temperature=WARM, step=s) for s in ("plain", "compiled"))
        assert compiled.tokens.equal(plain.tokens)
        assert len(KNOWN) - before == compilations


COPIES = """
import gc, importlib, sys, types
import torch
from ssd_core.cache import cpp_kernel

def copy():
    for name in [name for name in sys.modules if name.startswith("pack")]:
        del sys.modules[name]
    sys.modules["pack"] = types.ModuleType("pack")
    sys.modules["pack"].__path__ = ["."]
    importlib.import_module("pack.ssd_core.cache.cpp_kernel")

def attend(some):
    cpp_kernel.attend_pairs(some, some.clone(), some, some, some, torch.float32, torch.float32, [1])
    return some + 1

cpp_kernel.loaded = lambda *_: lambda *_: None
for count in range(40):  # what torch has forgotten may still lie where it was, for a while
    for _ in range(count % 3):
        copy()
    if count % 4 == 0:
        gc.collect()
    torch._dynamo.reset()
    assert torch.compile(attend, backend="aot_eager", fullgraph=True)(torch.zeros(1)) == 1
"""


def test_other_copies_of_the_package_take_no_operator_away() -> None:
    """Such as ComfyUI's pack beside an installed one; in a process of their own, for the copies stay."""
    done = subprocess.run([sys.executable, "-c", COPIES], cwd=ROOT, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_a_missing_compiler_is_said_in_a_sentence(tmp_path: Path) -> None:
    """In a process of its own, for torch remembers what it found of a compiler."""
    environment = {**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "ssd_core",
        "generate",
        "a red circle",
        "--step",
        "compiled",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)  # noqa: S603
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "The step cannot be compiled here (" in told
    assert "install these, or draw without compiling." in told
    assert "Traceback" not in told


@needs_compiler
@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_slots_of_small_precision_are_compiled_as_well(kv_dtype: str) -> None:
    plain, compiled = (
        generate(model_of(), UNEQUAL, SSD(12, head_map=HEADS), temperature=WARM, step=step, kv_dtype=kv_dtype)
        for step in ("plain", "compiled")
    )
    assert compiled.tokens.equal(plain.tokens)


def test_slots_that_skip_tokens_are_refused() -> None:
    with pytest.raises(UserError, match="cannot be compiled here: its slots choose what to skip") as refusal:
        generate(model_of(), ["ab"], Diagonal(8), step="compiled")
    check_sentence(refusal.value)
