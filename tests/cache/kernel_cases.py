"""What the kernel must do, for tests/cache/test_kernel.py to run: in Triton's interpreter, or else on a GPU."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import kernel as bench
from ssd_core import loop
from ssd_core.cache import kernel, kernel_cache
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.kernel import Kernel, Tiling
from ssd_core.cache.kernel_cache import KernelCache, agrees, is_known, kernel_cache_for, works
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.slots import Slots
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage
from ssd_core.clock import Clock
from ssd_core.models.base import Geometry
from ssd_core.policies import H2O, Diagonal, Full, HeadKV, Keep, Policy, RankingPolicy, View, Window
from ssd_core.prompts import prompt_rows
from ssd_core.step import prefill
from ssd_core.turn import Step, Turn
from tests.table import GRID, NO_PLAN, POLICIES, SEED, UNEQUAL, WARM, Drawn, Recorder, draw
from tests.tiny import tiny

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
# how far answers and scores may be apart: a few roundings of the least precise number on either path
EXACT = {torch.float32: 1e-5 if INTERPRETED else 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}
HAS_FP8 = INTERPRETED or (torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 9))
KINDS = {word: kind for word, kind in KV_DTYPES.items() if word != "fp8" or HAS_FP8}


@dataclass(frozen=True)
class Mixed(RankingPolicy):
    """Heads that keep what is ranked highest, heads that keep the newest tokens, and heads that keep all, in turn."""

    few: int
    pinned: int
    refresh: int | Literal["row"]
    asked: int

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = min(self.pinned, prompt)
        own = [Keep(pinned + self.few + 1, pinned, ranked=True), Keep(pinned + self.few, pinned), Keep(20)]
        return [[own[(layer + head) % 3] for head in range(geometry.kv_heads)] for layer in range(geometry.layers)]

    def fade(self, geometry: Geometry) -> float:
        return 0.9

    def queries(self, geometry: Geometry) -> int:
        return self.asked

    def priority(self, view: View) -> Tensor:
        return view.position % 3 - 2.0  # so that rounding decides nothing


class Unscored(Mixed):
    scores = False


def filled(
    policy: Policy, geometry: Geometry, prompts: Sequence[int], dtype: torch.dtype, kv_dtype: str, seed: int = 0
) -> SlotCache:
    """Slots with random tokens of the prompts."""
    random = torch.Generator().manual_seed(seed)
    cache = SlotCache(policy, geometry, prompts, dtype, DEVICE, kv_dtype)
    for groups, layer in zip(cache.groups, cache.layers, strict=True):
        for group, slots in zip(groups, layer, strict=True):
            prompt = torch.randn(2, len(group.pairs), group.prompt - 1, geometry.head_dim, generator=random)
            slots.fill(*prompt.to(DEVICE, dtype))
    return cache


def parts_of(slots: Slots) -> list[Tensor]:
    """What is in the filled slots, as numbers, so that 0 is 0 whatever its sign."""
    storage = slots.storage
    parts = [storage.numbers, storage.scale] if isinstance(storage, QuantizedStorage) else storage.parts
    return [part[:, :, : slots.held].float() for part in parts]


def check_alike(slots: Slots, plain: Slots, close: float) -> None:
    """The very same numbers in the same slots, and the same seen of them."""
    assert (slots.stored, slots.unit) == (plain.stored, plain.unit)
    for own, other in zip(parts_of(slots), parts_of(plain), strict=True):
        assert own.equal(other)
    if isinstance(slots, RankedSlots) and isinstance(plain, RankedSlots):
        assert slots.newest_queries().equal(plain.newest_queries())
        torch.testing.assert_close(slots.score, plain.score, rtol=close, atol=close)


@pytest.mark.parametrize("splits", [1, 2, 4])
@pytest.mark.parametrize(("kv_heads", "group"), [(3, 1), (1, 3), (2, 2)])
@settings(max_examples=4 if INTERPRETED else 40)
@given(
    dim=st.sampled_from([8, 12, 16, 64, 128]),
    prompts=st.lists(st.integers(1, 5), min_size=1, max_size=2),
    steps=st.integers(1, 4),
    pinned=st.integers(0, 2),
    few=st.integers(1, 6),
    refresh=st.integers(1, 2),
    asked=st.sampled_from([2, 0]),
    scored=st.sampled_from([True, False]),
    dtype=st.sampled_from([*kernel_cache.DTYPES]),
    kv_dtype=st.sampled_from([*KINDS]),
    block=st.sampled_from([2, 4, 16]),
    seed=st.integers(0, 99),
)
def test_a_step_does_what_the_plain_one_does(
    kv_heads: int,
    group: int,
    splits: int,
    dim: int,
    prompts: list[int],
    steps: int,
    pinned: int,
    few: int,
    refresh: int,
    asked: int,
    scored: bool,
    dtype: torch.dtype,
    kv_dtype: str,
    block: int,
    seed: int,
) -> None:
    geometry = Geometry(1, kv_heads * group, kv_heads, dim, 1, steps, 9)
    policy = (Mixed if scored else Unscored)(few, pinned, min(refresh, few), asked)
    plain, known = (filled(policy, geometry, prompts, dtype, kv_dtype, seed) for _ in range(2))
    cache = KernelCache(known, Tiling(block, splits))
    random = torch.Generator().manual_seed(seed + 100)
    for _ in range(steps):
        qkv = torch.randn(len(prompts), 1, geometry.heads + 2 * kv_heads, dim, generator=random).to(DEVICE, dtype)
        cache.advance()
        expected, answers = plain.attend(0, qkv), cache.attend(0, qkv)
        assert (answers.shape, answers.dtype) == (expected.shape, dtype)
        torch.testing.assert_close(answers, expected, rtol=EXACT[dtype], atol=EXACT[dtype])
    for own, other in zip(known.layers[0], plain.layers[0], strict=True):
        check_alike(own, other, EXACT[dtype])


@pytest.mark.parametrize("dtype", kernel_cache.DTYPES, ids=str)
@pytest.mark.parametrize("kv_dtype", [*KINDS][1:])
def test_numbers_are_rounded_as_the_storage_rounds_them(kv_dtype: str, dtype: torch.dtype) -> None:
    """Halves, the smallest numbers, vectors of nothing but 0, and scales that are rounded to less than the largest."""
    geometry = Geometry(1, 4, 4, 64, 1, 1, 9)
    plain, known = (filled(Full(), geometry, [2], dtype, kv_dtype) for _ in range(2))
    vectors = torch.stack(
        [
            torch.linspace(-63.5, 127, 64).mul(2).round().div(2).clamp(max=127),
            torch.cat([torch.arange(32) / 1024, torch.arange(31) + 0.5, torch.tensor([448.0])]),
            torch.zeros(64),
            torch.linspace(-1.003, 0.7, 64) * 17,
        ]
    )
    qkv = vectors.repeat(3, 1)[None, None].to(DEVICE, dtype)
    cache = KernelCache(known)
    cache.advance()
    torch.testing.assert_close(cache.attend(0, qkv), plain.attend(0, qkv), rtol=0.01, atol=0.01)
    check_alike(known.layers[0][0], plain.layers[0][0], 0)


@pytest.mark.skipif(INTERPRETED, reason="takes a GPU")
def test_a_graph_does_every_step() -> None:
    geometry = Geometry(1, 4, 2, 64, 3, 4, 9)
    plain, known = (filled(Mixed(4, 2, 2, 2), geometry, [3, 5], torch.float32, "auto") for _ in range(2))
    cache, random = KernelCache(known), torch.Generator().manual_seed(0)
    qkv, graph = torch.empty(2, 1, 8, 64, device=DEVICE), torch.cuda.CUDAGraph()
    for step in range(9):
        qkv.copy_(torch.randn(qkv.shape, generator=random))
        cache.advance()
        if step == 0:
            answers = cache.attend(0, qkv)
        else:
            if step == 1:
                with torch.cuda.graph(graph):
                    cache.attend(0, qkv)
            graph.replay()
        torch.testing.assert_close(answers, plain.attend(0, qkv), rtol=1e-4, atol=1e-4)
    for own, other in zip(known.layers[0], plain.layers[0], strict=True):
        check_alike(own, other, 1e-4)


class Stepped:
    """A decoder's cache that goes through the kernel as soon as no slots grow any more."""

    def __init__(self, cache: SlotCache, tiling: Tiling | None) -> None:
        self.cache, self.tiling = cache, tiling
        self.kernel: KernelCache | None = None

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        if layer == 0:
            self.cache.replan()
            if self.kernel is None and is_known(self.cache):
                self.kernel = KernelCache(self.cache, self.tiling)
            if self.kernel:
                self.kernel.advance()
        return (self.kernel or self.cache).attend(layer, qkv)


@pytest.mark.parametrize(
    ("name", "kv_heads", "prompts", "kv_dtype", "splits"),
    [
        ("full", 4, UNEQUAL, "auto", 1),
        ("window", 2, ["ab"], "int8", 2),
        ("ssd", 4, UNEQUAL, "auto", 1),
        ("ssd, every 3 tokens", 2, ["ab"], "auto", 2),
        ("reach, every 3 tokens, windows cut", 4, ["ab"], [*KINDS][-1], 1),
        ("h2o, every 3 tokens, prompt not pinned", 4, ["cde"], "auto", 4),
        ("snapkv, every 3 tokens, prompt not pinned", 2, ["ab"], "auto", 1),
        ("headkv", 4, ["ab"], "auto", 1),
    ],
)
def test_a_drawing_is_the_plain_one(name: str, kv_heads: int, prompts: list[str], kv_dtype: str, splits: int) -> None:
    model = tiny(kv_heads=kv_heads, device=DEVICE.type, **GRID)
    policy, sampling = POLICIES[name].fit(model), Recorder(1.0, WARM)
    rows = prompt_rows(model, prompts, 1, None, sampling)
    with torch.inference_mode():
        stepped = Stepped(prefill(model, policy, rows, kv_dtype=kv_dtype), Tiling(4, splits))
        turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(SEED, SEED + len(rows))))
        loop.draw_tokens(Step(turn, stepped), NO_PLAN, Clock(DEVICE))  # type: ignore[arg-type]
    assert stepped.kernel
    plain = draw(model, policy, prompts, 1.0, kv_dtype=kv_dtype)
    assert Drawn(turn.tokens, torch.stack(sampling.logits)).like(plain)


def test_the_host_leaves_what_the_device_may_still_read() -> None:
    cache = KernelCache(filled(Window(4, pin_prompt=False), Geometry(1, 1, 1, 8, 1, 3, 9), [2], torch.float32, "auto"))
    rows = []
    for step in range(3):
        cache.advance()
        rows.append(cache.to_come[step].clone())
        assert cache.state.cpu().equal(rows[-1])
    assert cache.to_come.equal(torch.stack(rows))
    assert [row[0, :2].tolist() for row in rows] == [[1, 2], [2, 3], [3, 4]]  # slots, and how many are filled


def test_slots_that_grow_or_skip_tokens_are_not_known() -> None:
    geometry = Geometry(2, 4, 4, 8, 3, 4, 9)

    def cache_of(policy: Policy, dtype: torch.dtype = torch.float32) -> SlotCache:
        return SlotCache(policy, geometry, [3], dtype, DEVICE)

    assert is_known(cache_of(Window(9)))
    assert is_known(cache_of(H2O(9)))
    for policy in (Diagonal(8), HeadKV(11, type_at=9, local=3)):
        assert not is_known(cache_of(policy))
        assert kernel_cache_for(cache_of(policy)) is None
    assert not is_known(cache_of(Full(), torch.float64))
    # and on the processor, where only the interpreter runs it, nothing is
    assert (kernel_cache_for(cache_of(Full())) is None) == INTERPRETED


SIZES = (2, 2, 16)  # heads, kv_heads and head_dim


@pytest.mark.parametrize("kind", KINDS.values(), ids=str)
@pytest.mark.parametrize("dtype", kernel_cache.DTYPES, ids=str)
def test_the_trial_finds_that_it_works(dtype: torch.dtype, kind: torch.dtype | None) -> None:
    assert works.__wrapped__(DEVICE, dtype, kind, *SIZES)


@pytest.mark.parametrize("part", ["attend_pairs", "merge_splits"])
def test_the_trial_finds_a_kernel_that_fails_or_is_wrong(
    part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getitem__(self, programs: tuple[int, ...]) -> None:
            raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(kernel, part, Broken())
    assert not works.__wrapped__(DEVICE, torch.float32, None, *SIZES)
    assert caplog.messages == [f"The kernel does not run on {DEVICE}, and is done without: no compiler"]


def test_the_trial_finds_wrong_answers_and_wrong_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(1, *SIZES, 1, kernel_cache.STEPS, 1)
    assert agrees(DEVICE, torch.float32, None, geometry, 1)
    right_kernel, right_table = Kernel.__init__, kernel_cache.table_of

    def other_scale(self: Kernel, *args: Any, **kwargs: Any) -> None:
        right_kernel(self, *args, **kwargs)
        self.factor *= 2

    def no_scores(slots: Slots, pairs: Sequence[int], kind: int) -> Tensor:
        return right_table(slots, pairs, kind).index_fill(1, torch.tensor([4]), 0)

    monkeypatch.setattr(Kernel, "__init__", other_scale)
    assert not agrees(DEVICE, torch.float32, None, geometry, 1)
    monkeypatch.setattr(Kernel, "__init__", right_kernel)
    monkeypatch.setattr(kernel_cache, "table_of", no_scores)
    assert not agrees(DEVICE, torch.float32, None, geometry, 1)


@given(
    programs=st.integers(1, 10_000),
    slots=st.integers(1, 5000),
    dim=st.integers(1, 300),
    multiprocessors=st.integers(1, 200),
)
def test_work_is_divided_by_powers_of_2(programs: int, slots: int, dim: int, multiprocessors: int) -> None:
    tiling = Tiling.of(programs, slots, dim, multiprocessors)
    for size in (tiling.block, tiling.splits):
        assert size >= 1
        assert size & (size - 1) == 0
    if tiling.splits > 1:
        assert tiling.splits * programs <= kernel.RESIDENT * multiprocessors
        assert slots >= 2 * tiling.block * tiling.splits
    assert Tiling.of(32, 600, 64, 132) == Tiling(64, 4)
    assert Tiling.of(4096, 600, 128, 132) == Tiling(32, 1)


def test_bytes_are_those_of_the_tensors() -> None:
    geometry = Geometry(2, 4, 2, 8, 3, 4, 9)
    cache = KernelCache(filled(Full(), geometry, [3, 4], torch.bfloat16, "auto"), Tiling(16, 2))
    answers, table, state = 2 * 4 * 8 * 2, 2 * 4 * kernel.FIELDS * 8, 2 * kernel.NUMBERS * 4
    parts, sums = 4 * 2 * 2 * 8 * 4, 4 * 2 * 2 * 2 * 4
    assert cache.nbytes == answers + table + state + parts + sums
    cache = KernelCache(filled(H2O(1.0), geometry, [3, 4], torch.bfloat16, "auto"), Tiling(16, 1))
    assert cache.nbytes == answers + table + state + (parts + sums) // 2 + 4 * 2 * 15 * 4


def test_the_bench_measures_both_paths() -> None:
    geometry = Geometry(3, 2, 1, 16, 2, 4, 9)
    policy = H2O(6, refresh=2)
    cache = bench.filled(geometry, policy, 2, torch.float32, "int8", DEVICE, passes=1, prompt=3, turns=1)
    assert len(cache.layers) == 2
    (slots,) = cache.layers[0]
    measured = bench.measure(cache, passes=1, block=2, splits=2)
    assert measured
    assert slots.held == slots.keep.slots == 6
    assert measured.bytes == 2 * 6 * (2 * 16 + 2 * 2 + 2 * 4)  # of int8 keys and values, their scales, and scores twice
    assert min(measured.plain, measured.launched, measured.in_graph) > 0
    row = bench.line(["tiny", "h2o"], bench.Measured(3e-6, 2e-6, 1e-6, 5000), copy=1e10)
    assert row == "| tiny | h2o | 3.0 | 2.0 | 1.0 | 0.01 | 5 | 50% |"
    assert bench.copied(DEVICE, 1000) > 0
