"""What is the same whichever kernel there is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssd_core.cache import fixed, kernel_cache, ranked
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.cpp_kernel import CppKernel
from ssd_core.cache.kernel_cache import (
    KernelCache,
    MakeKernel,
    failure,
    is_known,
    kernel_cache_for,
    kernels_on,
    why_no_kernel,
)
from ssd_core.cache.ranked import LARGEST_UNIT, RankedSlots
from ssd_core.cache.table import FIELDS
from ssd_core.errors import UserError
from ssd_core.models.base import Geometry
from ssd_core.policies import H2O, Diagonal, Full, HeadKV, Policy, RankingPolicy, Window
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling
from ssd_core.step import prefill
from tests.table import FIXED, each_prompts, model_of

CPU = torch.device("cpu")
SMALL = Geometry(2, 4, 4, 8, 3, 4, 9)
STILL = {name: policy for name, policy in FIXED.items() if not isinstance(policy, HeadKV)}  # whose slots never move


class Idle:
    """A kernel that does nothing."""

    nbytes = 1000

    def __init__(self, cache: SlotCache, pairs: int, slots: int, scored: bool) -> None:
        self.about = pairs, slots, scored

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        pass


def cache_of(policy: Policy, dtype: torch.dtype = torch.float32, device: torch.device | str = CPU) -> SlotCache:
    return SlotCache(policy, SMALL, [3], dtype, device)


@pytest.mark.parametrize("ahead", [True, False])
def test_the_host_leaves_what_the_device_may_still_read(ahead: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "may_be_ahead_of", lambda _: ahead)
    slots = SlotCache(Window(4, pin_prompt=False), Geometry(1, 1, 1, 8, 1, 3, 9), [2], torch.float32, CPU)
    slots.layers[0][0].fill(*torch.zeros(2, 1, 1, 8))
    cache, rows = KernelCache(slots, Idle), []
    for step in range(3):
        cache.advance()
        rows.append(cache.state.clone())
        assert len(cache.to_come) == 3 * ahead
        assert not ahead or cache.to_come[: step + 1].equal(torch.stack(rows))
    assert [row[0, :2].tolist() for row in rows] == [[1, 2], [2, 3], [3, 4]]  # slots, and how many are filled


@pytest.mark.parametrize("largest", [2.0, LARGEST_UNIT])
@each_prompts
@pytest.mark.parametrize("policy", STILL.values(), ids=STILL.keys())
def test_what_is_told_ahead_is_what_is_told_step_by_step(
    policy: Policy, prompts: tuple[str, str], largest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranked, "LARGEST_UNIT", largest)
    model, caches = model_of(), []
    rows = prompt_rows(model, prompts, 1, None, Sampling(1.0))
    for most in (1, 1000):
        cache = prefill(model, policy.fit(model), rows)
        layers = [slots for layer in cache.layers for slots in layer]
        for slots in layers:
            if isinstance(slots, RankedSlots):
                slots.score.fill_(1.0)
        fixed, told, calls = KernelCache(cache, Idle, turns=5), list[object](), 0
        while len(told) < model.geometry.tokens:
            turns = fixed.advance(min(most, model.geometry.tokens - len(told)))
            told += fixed.states[:turns].tolist()
            calls += 1
        caches.append((told, calls, [vars(slots) for slots in layers]))
    (told, single, own), (ahead, calls, others) = caches
    assert ahead == told
    assert single == 12
    assert calls < single or getattr(policy, "refresh", None) == 1
    assert calls == 3 or isinstance(policy, RankingPolicy)  # no more than five at once
    for one, other in zip(own, others, strict=True):
        assert one.keys() == other.keys()
        for name in ("stored", "unit", "taken", "ranked"):
            assert one.get(name) == other.get(name), name
        if "score" in one:  # they may have moved
            assert one["score"].sort().values.equal(other["score"].sort().values)


def test_a_kernel_is_made_for_the_most_that_any_layer_has() -> None:
    for policy, made_for in ((Full(), (4, 14, False)), (H2O(9), (4, 9, True)), (Window(5), (4, 5, False))):
        cache = KernelCache(cache_of(policy), Idle)
        assert isinstance(cache.kernel, Idle)
        assert cache.kernel.about == made_for
        answers, table, state = 4 * 8 * 4, 2 * 4 * FIELDS * 8, 4 * 4
        assert cache.nbytes == 1000 + answers + table + state


def test_slots_that_grow_or_skip_tokens_are_not_known() -> None:
    assert is_known(cache_of(Window(9)))
    assert is_known(cache_of(H2O(9)))
    for policy in (Diagonal(8), HeadKV(11, type_at=9, local=3)):
        assert not is_known(cache_of(policy))
        assert kernel_cache_for(cache_of(policy)) is None
    assert not is_known(cache_of(Full(), torch.float64))


def test_a_cache_goes_without_a_kernel_where_none_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "kernels_on", lambda device: [Idle])
    monkeypatch.setattr(kernel_cache, "failure", lambda *sizes: None)
    cache = kernel_cache_for(cache_of(Full()))
    assert cache
    assert isinstance(cache.kernel, Idle)
    monkeypatch.setattr(kernel_cache, "failure", lambda *sizes: "no compiler")
    assert kernel_cache_for(cache_of(Full())) is None


def test_each_device_has_its_kernel() -> None:
    assert kernels_on(CPU) == [CppKernel]
    with pytest.raises(UserError, match="there is none for mps"):
        kernels_on(torch.device("mps"))


def test_why_there_is_none_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(device: torch.device) -> list[MakeKernel]:
        raise ModuleNotFoundError("No module named 'triton'")

    def failing(cache: SlotCache, pairs: int, slots: int, scored: bool) -> Idle:
        raise RuntimeError("no compiler.\nand much more")

    def why() -> str | None:
        return failure.__wrapped__(CPU, torch.float32, None, 2, 2, 16)

    assert why_no_kernel(CPU, SMALL, torch.float64) == "there is none for float64"
    monkeypatch.setattr(kernel_cache, "kernels_on", missing)
    assert why() == "Triton is not installed"
    assert not caplog.messages  # it need not be
    monkeypatch.setattr(kernel_cache, "kernels_on", lambda device: [failing])
    assert why() == "no compiler"
    monkeypatch.setattr(kernel_cache, "kernels_on", lambda device: [Idle])
    assert why() == "it gives wrong answers"
    monkeypatch.undo()
    assert failure.__wrapped__(torch.device("mps"), torch.float32, None, 2, 2, 16) == "there is none for mps"
    reasons = ("no compiler", "it gives wrong answers")
    told = [f"The attention kernel does not run on cpu, and is done without: {reason}" for reason in reasons]
    assert caplog.messages[:2] == told


def test_the_trial_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[torch.device] = []

    def none(device: torch.device) -> list[MakeKernel]:
        tried.append(device)
        return []

    monkeypatch.setattr(kernel_cache, "kernels_on", none)
    failure.cache_clear()
    try:
        for _ in range(2):
            assert why_no_kernel(CPU, SMALL, torch.float32) is None
        assert len(tried) == 1
        why_no_kernel(CPU, SMALL, torch.float32, torch.int8)
        assert len(tried) == 2
    finally:
        failure.cache_clear()


def test_a_gpu_is_tried_with_splits_as_well() -> None:
    pytest.importorskip("triton", reason="takes Triton, which Linux has: pip install triton")
    from ssd_core.cache.triton_kernel import TritonKernel

    first, second = kernels_on(torch.device("cuda"))
    assert first is TritonKernel
    assert (second.func, second.keywords) == (TritonKernel, {"splits": 2})  # type: ignore[attr-defined]
