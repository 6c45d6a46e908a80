"""Slots that keep in the host's memory what they drop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_core.cache.offloaded import OffloadedSlots
from ssd_core.cache.ranked import Ranking
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage, Storage
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep, RankingPolicy, View
from tests.naive import NaiveHead
from tests.table import ROUNDED, check_positions

DIM, GROUP, COLUMNS = 4, 2, 5


@dataclass(frozen=True)
class Turning(RankingPolicy):
    """Ranks by values seen from a side that changes with each token, so that tokens leave and come back."""

    refresh: int | Literal["row"] = 1
    scores = False
    recalls = True

    def keeps(self, geometry: Geometry, prompt: int) -> list[list[Keep]]:
        raise NotImplementedError

    def priority(self, view: View) -> Tensor:
        return view.values[..., view.newest % DIM].float()


def slots_of(keep: Keep, refresh: int, whole: int, count: int, kv_dtype: str = "auto") -> OffloadedSlots:
    size, kind = (count, keep.slots, DIM, torch.float32, "cpu"), KV_DTYPES[kv_dtype]
    storage = QuantizedStorage(kind, torch.empty(count * keep.slots, DIM), *size) if kind else Storage(*size)
    return OffloadedSlots(whole, Ranking(Turning(), refresh, 1.0, 0, COLUMNS, GROUP), keep, storage, torch.float32)


def come(slots: OffloadedSlots, kv: Tensor, q: Tensor) -> Tensor:
    output = torch.empty_like(q)
    slots.attend(q, kv, output)
    return output


@st.composite
def cases(draw: st.DrawFn) -> tuple[Keep, int, int]:
    """How to keep, tokens between two rankings, and tokens of the prompt, which may be longer than the slots or, where
    not all that is pinned came with it, shorter than the pinned tokens."""
    pinned = draw(st.integers(0, 4))
    droppable = draw(st.integers(1, 7))
    return Keep(pinned + droppable, pinned, ranked=True), draw(st.integers(1, droppable)), draw(st.integers(1, 14))


@settings(max_examples=80)
@given(
    case=cases(),
    steps=st.integers(1, 24),
    count=st.integers(1, 5),
    kv_dtype=st.sampled_from([*KV_DTYPES]),
    seed=st.integers(0, 99),
)
def test_no_token_is_lost_or_doubled_and_the_best_of_all_are_held(
    case: tuple[Keep, int, int], steps: int, count: int, kv_dtype: str, seed: int
) -> None:
    rounded = ROUNDED[kv_dtype]
    keep, refresh, prompt = case
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, count, prompt + steps, DIM, generator=random)
    queries = 3 * torch.randn(count, prompt + steps, GROUP, DIM, generator=random)
    slots = slots_of(keep, refresh, max(prompt + steps, keep.slots + 1), count, kv_dtype)
    slots.fill(keys[:, :prompt], values[:, :prompt])
    heads = [NaiveHead(keep, Turning(), COLUMNS, refresh, 1.0, 0, rounded) for _ in range(count)]
    for head, k, v in zip(heads, keys, values, strict=True):
        head.remember(k[:prompt], v[:prompt])
    copied = prompt  # tokens that the host has, but for the pinned ones
    for at in range(prompt, prompt + steps):
        ranks = slots.stored >= keep.slots and slots.taken in (0, refresh)
        answer = come(slots, torch.stack([keys[:, at], values[:, at]]), queries[:, at])
        copied = at if ranks else copied
        check_positions(slots)
        positions = slots.positions()
        for pair, (head, held) in enumerate(zip(heads, positions.tolist(), strict=True)):
            head.come(keys[pair, at], values[pair, at])
            torch.testing.assert_close(answer[pair], head.answer(queries[pair, at]), rtol=0, atol=1e-5)
            assert sorted(held) == sorted(head.alive)
            assert {*held, *range(keep.pinned, copied)} == set(range(at + 1))
        # each slot and each place of the host has the key and the value of the token it says it has
        for half, came in enumerate((keys, values)):
            read = slots.storage.read()[half, :, : positions.shape[1]]
            expected = rounded(came.gather(1, positions.long()[..., None].expand(-1, -1, DIM)))
            torch.testing.assert_close(read, expected, rtol=0, atol=1e-6)
            kept = slots.storage.unpack([part[half, : max(copied - keep.pinned, 0)] for part in slots.host])
            torch.testing.assert_close(kept, rounded(came[:, keep.pinned : copied]).transpose(0, 1), rtol=0, atol=1e-6)


def test_what_left_comes_back() -> None:
    slots = slots_of(Keep(4, ranked=True), refresh=2, whole=20, count=1)
    random = torch.Generator().manual_seed(0)
    slots.fill(*torch.randn(2, 1, 2, DIM, generator=random))
    gone: set[int] = set()
    back: set[int] = set()
    for _ in range(14):
        before = set(slots.positions()[0].tolist())
        token = torch.randn(3, 1, DIM, generator=random)
        come(slots, token[:2], token[2:].expand(1, GROUP, DIM))
        now = set(slots.positions()[0].tolist())
        back |= now & gone
        gone |= before - now
    assert len(back) > 2
    assert gone - now


def test_bytes_of_the_host_are_those_of_all_tokens_that_are_not_pinned() -> None:
    slots = slots_of(Keep(6, 2, ranked=True), refresh=3, whole=20, count=5)
    assert slots.host_bytes == 2 * 5 * (20 - 2) * DIM * 4
    assert slots.kv_bytes == 2 * 5 * 6 * DIM * 4
    assert slots.bookkeeping_bytes == 5 * 6 * 4 + 2 * 5 * 8  # positions, and of each pair's keys and values the row
    small = slots_of(Keep(6, 2, ranked=True), refresh=3, whole=20, count=5, kv_dtype="int8")
    assert small.host_bytes == 2 * 5 * (20 - 2) * (DIM + 2)
