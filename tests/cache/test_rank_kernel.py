"""The kernel for rankings must leave slots as torch's operations do, number by number."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssd_core import generate
from ssd_core.cache import rank_kernel
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.kernel_cache import kernel_cache_for
from ssd_core.cache.rank_kernel import RankKernel, held_by, rank_kernel_for, works
from ssd_core.cache.ranked import RankedSlots, Ranking
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage, Storage
from ssd_core.policies import SSD, Keep, View
from tests.cache.kernel_cases import Unscored, needs_compiler
from tests.cache.test_cpp_kernel import threads
from tests.table import POLICIES, SEED, WARM, model_of

pytestmark = needs_compiler
SCORES = st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-23, -1.0, 1e-40, -1e-40, torch.inf, -torch.inf, torch.nan])


class Transposed(Unscored):
    """What it says of the tokens lies otherwise, and is more precise, than a kernel reads it."""

    def priority(self, view: View) -> Tensor:
        return super().priority(view).double().T.contiguous().T


RANKED_BY = [SSD(literal=True), Unscored(1, 0, 1, 0), Transposed(1, 0, 1, 0)]


@st.composite
def filled(draw: st.DrawFn) -> RankedSlots:
    """Full slots of any sizes, and so many tokens to leave as may."""
    pairs, pinned, refresh, others = (draw(st.integers(*sizes)) for sizes in ((1, 9), (0, 4), (1, 9), (0, 12)))
    slots, dim = pinned + refresh + others, draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    kind = KV_DTYPES[draw(st.sampled_from([*KV_DTYPES]))]
    sizes = pairs, slots, dim, dtype, "cpu"
    storage = QuantizedStorage(kind, torch.empty(pairs * slots, dim, dtype=dtype), *sizes) if kind else Storage(*sizes)
    policy = draw(st.sampled_from(RANKED_BY))
    own = RankedSlots(Ranking(policy, refresh, 1.0, 0, 4, 1), Keep(slots, pinned, ranked=True), storage, dtype)
    own.stored = slots
    random = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    for part in storage.parts:
        part.view(torch.uint8).random_(0, 256, generator=random)
    own.position.copy_(torch.rand(pairs, slots, generator=random).argsort(1))
    if own.scores:
        some = st.lists(SCORES | st.floats(width=32), min_size=pairs * slots, max_size=pairs * slots)
        own.score.copy_(torch.tensor(draw(some)).view(pairs, slots))
    return own


def bits(slots: RankedSlots) -> list[Tensor]:
    return [part.clone().view(torch.uint8) for part in held_by(slots)]


def ranked_both_ways(slots: RankedSlots) -> tuple[list[Tensor], list[Tensor]]:
    """What slots hold after a ranking operation by operation, and after the same by a kernel."""
    before = [part.clone() for part in held_by(slots)]
    slots.rank()
    plain = bits(slots)
    for part, was in zip(held_by(slots), before, strict=True):
        part.copy_(was)
    slots.ranked, slots.kernel = False, RankKernel(slots, (torch.float32, torch.float32))
    slots.rank()
    assert (slots.ranked, slots.taken) == (True, 0)
    return plain, bits(slots)


@given(slots=filled())
def test_slots_stand_as_they_do_operation_by_operation(slots: RankedSlots) -> None:
    plain, known = ranked_both_ways(slots)
    assert all(torch.equal(*both) for both in zip(plain, known, strict=True))


@given(slots=filled(), count=st.integers(1, 5))
def test_threads_change_nothing(slots: RankedSlots, count: int) -> None:
    with threads(count):
        plain, known = ranked_both_ways(slots)
    assert all(torch.equal(*both) for both in zip(plain, known, strict=True))


@pytest.mark.parametrize(
    "name", ["ssd", "ssd of a share, every token", "reach", "h2o", "snapkv, every token, not pooled"]
)
def test_drawings_are_ranked_by_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(step: str) -> Tensor:
        return generate(
            *(model_of(), ["ab"], POLICIES[name], 3, SEED), temperature=WARM, kv_dtype="int8", step=step
        ).tokens

    plain = drawn("plain")
    assert drawn("kernel").equal(plain)
    monkeypatch.setattr(RankedSlots, "move_last", lambda *_: pytest.fail("moved by torch"))  # but for trials before
    assert drawn("kernel").equal(plain)


def test_what_comes_back_from_the_host_is_ranked_by_torch() -> None:
    model = model_of()
    cache = SlotCache(POLICIES["adsa, offloaded, every 2 tokens"], model.geometry, [4], model.dtype, model.device)
    assert kernel_cache_for(cache)
    ranked = [own for layer in cache.layers for own in layer if isinstance(own, RankedSlots)]
    assert ranked
    assert all(own.kernel is None for own in ranked)


def test_one_that_errs_is_done_without(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    dtypes = torch.float32, torch.float32
    assert rank_kernel_for(rank_kernel.some_slots(*dtypes), dtypes)
    monkeypatch.setattr(RankKernel, "__call__", lambda *_: None)
    monkeypatch.setattr(rank_kernel, "works", works.__wrapped__)
    with caplog.at_level(logging.WARNING):
        assert rank_kernel_for(rank_kernel.some_slots(*dtypes), dtypes) is None
    assert caplog.messages == ["The kernel for rankings is done without on this processor: it errs"]
