from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_core.cache.ranked import RankedSlots, Ranking
from ssd_core.cache.slots import Slots
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage, Storage
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep, RankingPolicy, View
from tests.naive import NaiveHead
from tests.table import ROUNDED, check_positions

DIM, GROUP, COLUMNS = 4, 2, 5
By = Literal["score", "queries", "position"]


@dataclass(frozen=True)
class Ranked(RankingPolicy):
    """Ranks by attention, by how well keys and values answer the kept queries, or by nothing but the position modulo 3,
    many alike and most below 0."""

    by: By = "score"
    refresh: int | Literal["row"] = 1

    def keeps(self, geometry: Geometry, prompt: int) -> list[list[Keep]]:
        raise NotImplementedError

    def priority(self, view: View) -> Tensor:
        if self.by == "queries":
            # of a lone value and of the queries' order, too, so that each must be right
            ages = torch.arange(1.0, view.queries.shape[1] + 1)
            asked = torch.einsum("nqgd,nsd,q->ns", view.queries, view.keys, ages)
            return asked + view.values[..., 0]
        return view.score if self.by == "score" else view.position % 3 - 2.0


def slots_of(
    keep: Keep, refresh: int, fade: float, count: int, by: By = "score", queries: int = 0, kv_dtype: str = "auto"
) -> Slots:
    size, kind = (count, keep.slots, DIM, torch.float32, "cpu"), KV_DTYPES[kv_dtype]
    storage = QuantizedStorage(kind, torch.empty(count * keep.slots, DIM), *size) if kind else Storage(*size)
    if keep.ranked:
        ranking = Ranking(Ranked(by), refresh, fade, queries, COLUMNS, GROUP)
        return RankedSlots(ranking, keep, storage, torch.float32)
    return Slots(keep, storage)


def attend(slots: Slots, q: Tensor, kv: Tensor) -> Tensor:
    output = torch.empty_like(q)
    slots.attend(q, kv, output)
    return output


@st.composite
def cases(draw: st.DrawFn) -> tuple[Keep, int, int]:
    """How to keep, tokens between two rankings, and tokens of the prompt (pinned ones included)."""
    pinned = draw(st.integers(0, 4))
    droppable = draw(st.integers(1, 7))
    keep = Keep(pinned + droppable, pinned, draw(st.booleans()))
    # whatever is pinned has come with the prompt, or the slots hold it when it comes
    return keep, draw(st.integers(1, droppable)), draw(st.integers(1, 14))


@settings(max_examples=80)
@given(
    case=cases(),
    fade=st.sampled_from([1.0, 0.8, 1e-5]),
    by=st.sampled_from(["score", "queries", "position"]),
    asked=st.integers(1, 5),
    steps=st.integers(1, 20),
    count=st.integers(1, 3),
    kv_dtype=st.sampled_from([*KV_DTYPES]),
    seed=st.integers(0, 99),
)
def test_slots_hold_what_the_reference_holds(
    case: tuple[Keep, int, int], fade: float, by: By, asked: int, steps: int, count: int, kv_dtype: str, seed: int
) -> None:
    rounded = ROUNDED[kv_dtype]
    keep, refresh, prompt = case
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, count, prompt + steps, DIM, generator=random)
    queries = 3 * torch.randn(count, prompt + steps, GROUP, DIM, generator=random)
    slots, unseen = (slots_of(keep, refresh, fade, count, by, asked, kv_dtype) for _ in range(2))
    heads = [NaiveHead(keep, Ranked(by), COLUMNS, refresh, fade, asked, rounded) for _ in range(count)]
    for part in (slots, unseen):
        part.fill(keys[:, :prompt], values[:, :prompt])
    for head, k, v in zip(heads, keys, values, strict=True):
        head.remember(k[:prompt], v[:prompt])
    for at in range(prompt, prompt + steps):
        newest = torch.stack([keys[:, at], values[:, at]])
        answer = attend(slots, queries[:, at], newest)
        attend(unseen, queries[:, at], newest)
        check_positions(slots)
        for pair, (head, positions) in enumerate(zip(heads, slots.positions().tolist(), strict=True)):
            head.come(keys[pair, at], values[pair, at])
            torch.testing.assert_close(answer[pair], head.answer(queries[pair, at]), rtol=0, atol=1e-5)
            assert sorted(positions) == sorted(head.alive)
            # each slot still has the key and the value of the token it says it has, and that token's score
            for part, came in zip(slots.storage.read()[:, pair, : len(positions)], (keys, values), strict=True):
                torch.testing.assert_close(part, rounded(came[pair, positions]), rtol=0, atol=1e-6)
            if isinstance(slots, RankedSlots):
                expected = torch.tensor([head.score[position] for position in positions])
                got = slots.score[pair, : len(positions)] / slots.unit
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    # looking at the positions changes nothing
    assert unseen.positions().equal(slots.positions())


def test_of_tokens_ranked_alike_the_older_goes_first() -> None:
    slots = slots_of(Keep(9, pinned=1, ranked=True), refresh=4, fade=1.0, count=1, by="position")
    token = torch.zeros(1, DIM)
    slots.fill(torch.zeros(1, 9, DIM), torch.zeros(1, 9, DIM))
    gone: list[int] = []
    for _ in range(6):
        before = set(slots.positions()[0].tolist())
        attend(slots, token[:, None], torch.stack([token, token]))
        gone += before - set(slots.positions()[0].tolist())
    # 0 is pinned; 3 and 6 rank lowest, then 1 and 4; then 9 and 12 anew
    assert gone == [3, 6, 1, 4, 9, 12]


def test_a_token_that_comes_owes_nothing_to_the_one_before_it() -> None:
    slots = slots_of(Keep(2, ranked=True), refresh=1, fade=1.0, count=1)
    far, near = torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([[0.0, 9, 0, 0]])
    slots.fill(torch.stack([near, far], 1), torch.zeros(1, 2, DIM))
    attend(slots, far[:, None], torch.stack([near, near]))  # one of the two prompt tokens goes, the older
    assert isinstance(slots, RankedSlots)
    assert slots.positions().tolist() == [[1, 2]]
    torch.testing.assert_close(slots.score, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("ranked", [False, True])
def test_bytes_are_those_of_the_tensors(ranked: bool) -> None:
    slots = slots_of(Keep(6, 2, ranked), refresh=3, fade=1.0, count=5, queries=7)
    assert slots.kv_bytes == 2 * 5 * 6 * DIM * 4
    # a position and a score a slot, of 4 bytes each, 7 queries, and of each pair's keys and values the first row, of 8
    assert slots.bookkeeping_bytes == (5 * 6 * (4 + 4) + 5 * 7 * GROUP * DIM * 4 + 2 * 5 * 8 if ranked else 0)
