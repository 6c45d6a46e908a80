"""Tokens that move to where they are kept from then on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_core.cache.cache import SlotCache
from ssd_core.cache.growing import GrowingSlots
from ssd_core.cache.ranked import RankedSlots, Ranking
from ssd_core.cache.slots import Slots
from ssd_core.cache.storage import Storage
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep, RankingPolicy, View
from ssd_core.policies.base import uniform
from tests.table import check_positions

DIM, GROUP, COLUMNS = 4, 2, 5


@dataclass(frozen=True)
class Changing(RankingPolicy):
    """Ranks by attention. Pair k follows the choice that its newest query says."""

    grown: int
    few: Keep
    many: Keep
    refresh: int | Literal["row"] = 1

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        return uniform(Keep(self.grown, self.many.pinned, ranked=True), geometry)

    def replan_at(self, geometry: Geometry, prompt: int) -> int:
        return self.grown

    def choices(self, geometry: Geometry, prompt: int) -> Sequence[Keep]:
        return [self.few, self.many]

    def queries(self, geometry: Geometry) -> int:
        return 3

    def choose(self, view: View) -> Tensor:
        return (view.queries[:, -1, 0, 0] > 0).long()

    def priority(self, view: View) -> Tensor:
        return view.score


def attend(slots: Slots, q: Tensor, kv: Tensor) -> None:
    slots.attend(q, kv, torch.empty_like(q))


@settings(max_examples=40, deadline=None)
@given(
    pinned=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=2).map(sorted),
    grown=st.integers(4, 11),
    prompt=st.integers(1, 4),
    ranked=st.booleans(),
    fade=st.sampled_from([1.0, 0.8, 1e-5]),
    pairs=st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True).map(sorted),
    seed=st.integers(0, 99),
)
def test_what_is_to_be_kept_is_there_after_the_move_and_is_what_it_was(
    pinned: int,
    sizes: list[int],
    grown: int,
    prompt: int,
    ranked: bool,
    fade: float,
    pairs: list[int],
    seed: int,
) -> None:
    few, many = (Keep(pinned + size, pinned, ranked) for size in sizes)
    ranking = Ranking(Changing(grown, few, many), 1, fade, 3, COLUMNS, GROUP)

    def storage_of(count: int, keep: Keep) -> Storage:
        return Storage(count, keep.slots, DIM, torch.float32, "cpu")

    all_of_them = Keep(grown, pinned, ranked=True)
    slots = GrowingSlots([few, many], ranking, all_of_them, storage_of(5, all_of_them), torch.float32)
    random = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 5, grown + 4, DIM, generator=random)
    queries = 3 * torch.randn(5, grown + 4, GROUP, DIM, generator=random)
    slots.fill(keys[:, :prompt], values[:, :prompt])
    for at in range(prompt, grown):
        attend(slots, queries[:, at], torch.stack([keys[:, at], values[:, at]]))
    assert slots.positions().equal(torch.arange(grown, dtype=torch.int32).expand(5, -1))
    score = slots.score / slots.unit
    storage = storage_of(len(pairs), many)
    to = RankedSlots(ranking, many, storage, torch.float32) if ranked else Slots(many, storage)
    slots.hand_over(torch.tensor(pairs), to)
    check_positions_but_the_newest(to, ranked)
    for place, (pair, positions) in enumerate(zip(pairs, to.positions().tolist(), strict=True)):
        assert to.kv[0, place, : to.held].equal(keys[pair, positions])
        assert to.kv[1, place, : to.held].equal(values[pair, positions])
        free = list(range(pinned, grown))
        if ranked:  # those with the largest scores, of equals the newest
            free.sort(key=lambda position: (float(score[pair, position]), position))
        room = max(0, to.keep.slots - min(pinned, grown))
        assert sorted(positions) == sorted([*range(min(pinned, grown)), *free[max(0, len(free) - room) :]])
        if isinstance(to, RankedSlots):
            torch.testing.assert_close(to.score[place, : to.held], score[pair, positions], rtol=0, atol=1e-6)
            asked = queries[pair, max(prompt, grown - 3) : grown]
            assert to.newest_queries()[place].equal(asked)
    for at in range(grown, grown + 4):  # and it goes on as any slots do
        attend(to, queries[pairs, at], torch.stack([keys[pairs, at], values[pairs, at]]))
        check_positions(to)
        for place, (pair, positions) in enumerate(zip(pairs, to.positions().tolist(), strict=True)):
            assert to.kv[0, place, : to.held].equal(keys[pair, positions])
            assert to.kv[1, place, : to.held].equal(values[pair, positions])


def check_positions_but_the_newest(slots: Slots, ranked: bool) -> None:
    """No token twice; where the oldest leaves, the newest is there."""
    positions = slots.positions()
    assert positions.shape[1] == slots.held == min(slots.stored, slots.keep.slots)
    assert (positions.sort(1).values.diff(dim=1) > 0).all()
    assert ranked or (positions.amax(1) == slots.stored - 1).all()


def cache_of(policy: Changing, prompts: Sequence[int], geometry: Geometry) -> SlotCache:
    cache = SlotCache(policy, geometry, prompts, torch.float32, "cpu")
    for layer in cache.layers:
        for slots in layer:
            slots.fill(*torch.zeros(2, slots.kv.shape[1], 1, geometry.head_dim))
    return cache


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from([(1, 1, 1), (2, 3, 4), (4, 2, 3)]),
    grown=st.integers(3, 7),
    steps=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_each_pair_gets_the_slots_that_it_chose_and_answers_stay_in_order(
    shape: tuple[int, int, int], grown: int, steps: int, seed: int
) -> None:
    rows, kv_heads, group = shape
    geometry = Geometry(2, kv_heads * group, kv_heads, DIM, 4, 5, 9)
    policy = Changing(grown, Keep(1), Keep(2, ranked=True))
    cache = cache_of(policy, [2] * rows, geometry)
    random = torch.Generator().manual_seed(seed)
    newest = torch.zeros(0)
    for at in range(1, steps + 1):
        qkv = torch.randn(2, rows, 1, geometry.heads + 2 * kv_heads, DIM, generator=random)
        assert cache.replan() == (at == grown)
        if at >= grown:
            assert cache.replanned
            sizes = torch.zeros(2, rows * kv_heads, dtype=torch.int64)
            for layer, (groups, own) in enumerate(zip(cache.groups, cache.layers, strict=True)):
                for each, slots in zip(groups, own, strict=True):
                    assert slots.kv.shape[1:3] == (len(each.pairs), each.keep.slots)
                    sizes[layer, list(each.pairs)] = each.keep.slots
            if at == grown:
                chosen = 1 + (newest[:, :, 0, ::group][:, :, :kv_heads, 0] > 0).flatten(1).long()
                assert sizes.equal(chosen)
            assert cache.kv_bytes == 2 * DIM * 4 * int(sizes.sum())
            assert cache.slots_of_first_row() == sizes[:, :kv_heads].tolist()
        for layer in range(2):
            answers = cache.attend(layer, qkv[layer].clone())
            if at >= grown:  # a pair with one slot answers with the value that has just come
                of_pair = qkv[layer, :, 0, geometry.heads + kv_heads :].flatten(0, 1)
                alone = sizes[layer] == 1
                got = answers[:, 0].unflatten(1, (kv_heads, group)).flatten(0, 1)
                assert torch.allclose(got[alone], of_pair[alone][:, None].expand(-1, group, -1), atol=1e-5)
        newest = qkv
