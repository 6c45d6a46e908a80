"""What any kernel must do. `KernelCases` are the tests of whichever kernel a class below it says: triton_cases.py and
test_cpp_kernel.py have one each."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_core import loop
from ssd_core.cache import kernel_cache
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.kernel_cache import (
    DTYPES,
    STEPS,
    Kernel,
    KernelCache,
    MakeKernel,
    agrees,
    failure,
    is_known,
    kernels_on,
)
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.slots import Slots
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage
from ssd_core.cache.table import table_of_layer
from ssd_core.clock import Clock
from ssd_core.models.base import Geometry
from ssd_core.policies import Full, Keep, Policy, RankingPolicy, View
from ssd_core.prompts import prompt_rows
from ssd_core.step import prefill
from ssd_core.turn import Step, Turn
from tests.table import GRID, NO_PLAN, POLICIES, SEED, UNEQUAL, WARM, Drawn, Recorder, draw
from tests.tiny import tiny

EXAMPLES = 4 if os.environ.get("TRITON_INTERPRET") == "1" else 40  # the interpreter takes long
SIZES = (2, 2, 16)  # of a trial: heads, kv_heads and head_dim
needs_compiler = pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("g++"), reason="takes Linux and a C++ compiler: install g++"
)


@dataclass(frozen=True)
class Mixed(RankingPolicy):
    """Heads that keep what is ranked highest, heads that keep the newest tokens, and heads that keep all, in turn."""

    few: int
    pinned: int
    refresh: int | Literal["row"]
    asked: int

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = min(self.pinned, prompt)
        own = [Keep(pinned + self.few + 1, pinned, ranked=True), Keep(pinned + self.few, pinned), Keep(100)]
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
    policy: Policy,
    geometry: Geometry,
    prompts: Sequence[int],
    dtype: torch.dtype,
    kv_dtype: str,
    device: torch.device,
    seed: int = 0,
) -> SlotCache:
    """Slots with random tokens of the prompts."""
    random = torch.Generator().manual_seed(seed)
    cache = SlotCache(policy, geometry, prompts, dtype, device, kv_dtype)
    for groups, layer in zip(cache.groups, cache.layers, strict=True):
        for group, slots in zip(groups, layer, strict=True):
            prompt = torch.randn(2, len(group.pairs), group.prompt - 1, geometry.head_dim, generator=random)
            slots.fill(*prompt.to(device, dtype))
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


class Stepped:
    """A decoder's cache that goes through a kernel as soon as no slots grow any more."""

    def __init__(self, cache: SlotCache, make: MakeKernel) -> None:
        self.cache, self.make = cache, make
        self.kernel: KernelCache | None = None

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        if layer == 0:
            self.cache.replan()
            if self.kernel is None and is_known(self.cache):
                self.kernel = KernelCache(self.cache, self.make)
            if self.kernel:
                self.kernel.advance()
        return (self.kernel or self.cache).attend(layer, qkv)


class Doubled:
    """A kernel whose answers are wrong."""

    nbytes, about = 0, None

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        self.kernel(qkv, answers, table, state)
        answers.mul_(2)


class KernelCases:
    """device: that it computes on. on: the device whose kernel it is, which Triton's interpreter stands in for.
    exact: how far answers and scores may be apart, a few roundings of the least precise number on either path.
    kinds: what keys and values can be kept in, by their words."""

    device: ClassVar[torch.device]
    on: ClassVar[torch.device]
    exact: ClassVar[Mapping[torch.dtype, float]]
    kinds: ClassVar[Mapping[str, torch.dtype | None]] = KV_DTYPES

    def make(self, parts: int, block: int) -> MakeKernel:
        """The kernel, its work divided among so many at once, so many slots at a time where that can be chosen."""
        raise NotImplementedError

    def need(self, kv_dtype: str) -> None:
        if kv_dtype not in self.kinds:
            pytest.skip(f"this device has no {kv_dtype}")

    @pytest.mark.parametrize("parts", [1, 2, 4])
    @pytest.mark.parametrize(("kv_heads", "group"), [(3, 1), (1, 3), (2, 2)])
    @settings(max_examples=EXAMPLES)
    @given(
        dim=st.sampled_from([8, 12, 16, 32, 64, 80, 128]),
        prompts=st.lists(st.one_of(st.integers(1, 5), st.integers(14, 40)), min_size=1, max_size=2),
        steps=st.integers(1, 4),
        pinned=st.integers(0, 2),
        few=st.one_of(st.integers(1, 6), st.integers(13, 34)),
        refresh=st.integers(1, 2),
        asked=st.sampled_from([2, 0]),
        scored=st.sampled_from([True, False]),
        dtype=st.sampled_from([*DTYPES]),
        kv_dtype=st.sampled_from([*KV_DTYPES]),
        block=st.sampled_from([2, 4, 16]),
        seed=st.integers(0, 99),
    )
    def test_a_step_does_what_the_plain_one_does(
        self,
        kv_heads: int,
        group: int,
        parts: int,
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
        assume(kv_dtype in self.kinds)
        geometry, close = Geometry(1, kv_heads * group, kv_heads, dim, 1, steps, 9), self.exact[dtype]
        policy = (Mixed if scored else Unscored)(few, pinned, min(refresh, few), asked)
        plain, known = (filled(policy, geometry, prompts, dtype, kv_dtype, self.device, seed) for _ in range(2))
        cache = KernelCache(known, self.make(parts, block))
        random = torch.Generator().manual_seed(seed + 100)
        for _ in range(steps):
            qkv = torch.randn(len(prompts), 1, geometry.heads + 2 * kv_heads, dim, generator=random)
            qkv = qkv.to(self.device, dtype)
            cache.advance()
            expected, answers = plain.attend(0, qkv), cache.attend(0, qkv)
            assert (answers.shape, answers.dtype) == (expected.shape, dtype)
            torch.testing.assert_close(answers, expected, rtol=close, atol=close)
        for own, other in zip(known.layers[0], plain.layers[0], strict=True):
            check_alike(own, other, close)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("kv_dtype", [*KV_DTYPES][1:])
    def test_numbers_are_rounded_as_the_storage_rounds_them(self, kv_dtype: str, dtype: torch.dtype) -> None:
        """Halves, the smallest numbers, vectors of nothing but 0, and scales that are rounded to less than the
        largest."""
        self.need(kv_dtype)
        geometry = Geometry(1, 4, 4, 64, 1, 1, 9)
        plain, known = (filled(Full(), geometry, [2], dtype, kv_dtype, self.device) for _ in range(2))
        vectors = torch.stack(
            [
                torch.linspace(-63.5, 127, 64).mul(2).round().div(2).clamp(max=127),
                torch.cat([torch.arange(32) / 1024, torch.arange(31) + 0.5, torch.tensor([448.0])]),
                torch.zeros(64),
                torch.linspace(-1.003, 0.7, 64) * 17,
            ]
        )
        qkv = vectors.repeat(3, 1)[None, None].to(self.device, dtype)
        cache = KernelCache(known, self.make(1, 16))
        cache.advance()
        torch.testing.assert_close(cache.attend(0, qkv), plain.attend(0, qkv), rtol=0.01, atol=0.01)
        check_alike(known.layers[0][0], plain.layers[0][0], 0)

    @pytest.mark.parametrize(
        ("name", "kv_heads", "prompts", "kv_dtype", "parts"),
        [
            ("full", 4, UNEQUAL, "auto", 1),
            ("window", 2, ["ab"], "int8", 2),
            ("ssd", 4, UNEQUAL, "auto", 1),
            ("ssd, every 3 tokens", 2, ["ab"], "auto", 2),
            ("reach, every 3 tokens, windows cut", 4, ["ab"], "fp8", 1),
            ("h2o, every 3 tokens, prompt not pinned", 4, ["cde"], "auto", 4),
            ("snapkv, every 3 tokens, prompt not pinned", 2, ["ab"], "auto", 1),
            ("headkv", 4, ["ab"], "auto", 1),
        ],
    )
    def test_a_drawing_is_the_plain_one(
        self, name: str, kv_heads: int, prompts: list[str], kv_dtype: str, parts: int
    ) -> None:
        self.need(kv_dtype)
        model = tiny(kv_heads=kv_heads, device=self.device.type, **GRID)
        policy, sampling = POLICIES[name].fit(model), Recorder(1.0, WARM)
        rows = prompt_rows(model, prompts, 1, None, sampling)
        with torch.inference_mode():
            stepped = Stepped(prefill(model, policy, rows, kv_dtype=kv_dtype), self.make(parts, 4))
            turn = Turn(model, sampling, rows, loop.uniform_numbers(model, range(SEED, SEED + len(rows))))
            loop.draw_tokens(Step(turn, stepped), NO_PLAN, Clock(self.device))  # type: ignore[arg-type]
        assert stepped.kernel
        plain = draw(model, policy, prompts, 1.0, kv_dtype=kv_dtype)
        assert Drawn(turn.tokens, torch.stack(sampling.logits)).like(plain)

    @pytest.fixture
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The trial takes this kernel, whatever the device's own is."""
        monkeypatch.setattr(kernel_cache, "kernels_on", lambda device: kernels_on(self.on))

    @pytest.mark.usefixtures("tried")
    @pytest.mark.parametrize("kv_dtype", [*KV_DTYPES])
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_the_trial_finds_that_it_works(self, dtype: torch.dtype, kv_dtype: str) -> None:
        self.need(kv_dtype)
        assert failure.__wrapped__(self.device, dtype, KV_DTYPES[kv_dtype], *SIZES) is None

    def test_the_trial_finds_wrong_answers_and_wrong_scores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        geometry, make = Geometry(1, *SIZES, 1, STEPS, 1), self.make(1, 16)

        def doubled(cache: SlotCache, pairs: int, slots: int, scored: bool) -> Kernel:
            return Doubled(make(cache, pairs, slots, scored))

        def no_scores(*layer: Sequence[object]) -> Tensor:
            return table_of_layer(*layer).index_fill(1, torch.tensor([4]), 0)  # type: ignore[arg-type]

        assert agrees(self.device, torch.float32, None, geometry, make)
        assert not agrees(self.device, torch.float32, None, geometry, doubled)
        monkeypatch.setattr(kernel_cache, "table_of_layer", no_scores)
        assert not agrees(self.device, torch.float32, None, geometry, make)
