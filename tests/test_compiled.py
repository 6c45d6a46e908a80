"""What a compiled step draws, beside the plain one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
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
    ],
    ids=["full", "window", "ssd", "by queries", "adsa, offloaded"],
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


def test_a_missing_compiler_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(UserError, match=r"cannot be compiled here \(.*install these, or draw without") as refusal:
        generate(tiny(), ["ab"], step="compiled")
    check_sentence(refusal.value)


@pytest.mark.parametrize(
    ("policy", "kv_dtype"),
    [
        (Full(), "int8"),
        (SSD(12, head_map=HEADS), "fp8"),
        (Diagonal(8), "auto"),
        (HeadKV(11, type_at=9, local=3), "auto"),
    ],
    ids=["int8", "fp8", "diagonal", "headkv"],
)
def test_slots_that_a_compiled_step_does_not_know_are_refused(policy: Policy, kv_dtype: str) -> None:
    with pytest.raises(UserError, match="neither a kv_dtype but auto") as refusal:
        generate(model_of(), ["ab"], policy, step="compiled", kv_dtype=kv_dtype)
    check_sentence(refusal.value)
