"""HeadKV: types that each picture finds for itself, and what they save."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd_core import HeadKV, Memory, OutOfMemoryError, UserError, generate, plan
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.growing import GrowingSlots
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.slots import Slots
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep, View
from tests.table import EQUAL, POLICIES, UNEQUAL, WARM, check_sentence, draw, model_of, tensors_of, watch
from tests.tiny import tiny

PRO = Geometry(24, 16, 16, 128, 24, 24, 16384)  # Janus-Pro-1B
POLICY = HeadKV(11, type_at=9, local=3)


def kinds_of(cache: SlotCache) -> list[list[str]]:
    """The role of each pair, [layers][rows * kv_heads]."""
    kinds = []
    for groups in cache.groups:
        of_pair = {pair: group.keep.role for group in groups for pair in group.pairs}
        kinds.append([of_pair[pair] for pair in sorted(of_pair)])
    return kinds


@pytest.mark.parametrize(
    "name", ["headkv", "headkv of a share, every 2 tokens", "headkv, more at first than in the end"]
)
@pytest.mark.parametrize("prompts", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_the_table_s_pictures_find_heads_of_both_kinds(
    name: str, prompts: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[list[str]] = []

    def see(cache: SlotCache) -> None:
        kinds[:] = kinds_of(cache)

    watch(monkeypatch, see)
    draw(model_of(), POLICIES[name], prompts, 3.0)
    of_row = [tuple(kind for layer in kinds for kind in layer[4 * row : 4 * row + 4]) for row in range(4)]
    assert {kind for row in of_row for kind in row} == {"local", "global"}
    assert len(set(of_row)) > 1  # rows differ


def test_memory_shrinks_when_heads_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[tuple[int, int]] = []
    told: list[Memory] = []

    def see(cache: SlotCache) -> None:
        tensors = {part for layer in cache.layers for own in layer for part in tensors_of(own)}
        kv = sum(own.kv.untyped_storage().nbytes() for layer in cache.layers for own in layer)
        held.append((kv, sum(part.untyped_storage().nbytes() for part in tensors)))

    watch(monkeypatch, see)
    policy = HeadKV(8, type_at=9, local=2)
    # plainly, where planning anew takes more than a step, whatever the number of threads
    drawn = generate(model_of(), ["ab"], policy, on_row=lambda *given: told.append(given[2]), step="plain")
    planned = plan(model_of(), policy, prompt="ab", step="plain")
    # 4 tokens of the prompt and 5 of the picture, then a step with the new slots; 2 rows, layers, 4 heads of 8 floats
    assert [kv for kv, _ in held[:6]] == [9 * 2 * 2 * 4 * 2 * 8 * 4] * 6
    assert {kv for kv, _ in held[6:]} == {drawn.memory.kv_bytes}
    assert drawn.memory.kv_bytes < planned.kv_bytes == 8 * 2 * 2 * 4 * 2 * 8 * 4 < held[5][0]
    assert held[6][1] < held[5][1]
    assert told[0] == planned
    assert told[1] == told[2] == drawn.memory
    assert {slots for layer in drawn.memory.slots for slots in layer} == {6, 8}
    assert planned.slots == [[8] * 4] * 2
    assert drawn.memory.peak_bytes == planned.peak_bytes


def view_of(queries: Tensor, keys: Tensor, pinned: int, position: Tensor | None = None, columns: int = 2) -> View:
    pairs, tokens = keys.shape[:2]
    position = torch.arange(tokens).expand(pairs, -1) if position is None else position
    return View(
        position=position.int(),
        score=torch.empty(pairs, 0),
        keys=keys,
        values=torch.zeros_like(keys),
        queries=queries,
        newest=int(position.max()),
        pinned=pinned,
        slots=tokens,
        columns=columns,
        role="global",
    )


def attended(shares: list[list[float]]) -> Tensor:
    """Keys that the query [1, 0] finds with these shares of a softmax, those of a head [1, tokens, 2]."""
    keys = torch.zeros(len(shares), len(shares[0]), 2)
    keys[..., 0] = torch.tensor(shares).log() * 2**0.5
    return keys


@pytest.mark.parametrize(
    ("shares", "local", "is_global"),
    [
        ([0.5, 0.01, 0.01, 0.01, 0.27, 0.2], 4, 0),  # of image attention alone .94 are in the newest 2
        ([0.5, 0.01, 0.01, 0.01, 0.27, 0.2], 3, 0),
        ([0.5, 0.01, 0.01, 0.01, 0.27, 0.2], 2, 1),
        ([0.5, 0.3, 0.01, 0.01, 0.01, 0.17], 4, 1),
        ([0.5, 0.3, 0.01, 0.01, 0.01, 0.17], 6, 0),
        ([0.01, 0.01, 0.33, 0.3, 0.3, 0.05], 4, 1),
    ],
)
def test_a_head_is_local_if_the_window_has_the_mass(shares: list[float], local: int, is_global: int) -> None:
    query = torch.tensor([1.0, 0]).view(1, 1, 1, 2)
    queries = torch.cat([torch.rand(1, 3, 1, 2), query], 1)  # the newest counts
    view = view_of(queries, attended([shares]), pinned=1)
    assert HeadKV(type_at=6, local=local).choose(view).tolist() == [is_global]


def test_without_a_local_window_given_it_is_two_rows() -> None:
    query, shares = torch.tensor([1.0, 0]).view(1, 1, 1, 2), [0.1, 0.1, 0.9, 0.01, 0.01, 0.01]
    for columns, is_global in ((2, 1), (3, 0)):  # 4 tokens have the mass
        view = view_of(query, attended([shares]), pinned=2, columns=columns)
        assert HeadKV().choose(view).tolist() == [is_global]


def test_queries_that_share_keys_count_by_their_mean() -> None:
    keys = attended([[0.1, 0.01, 0.01, 0.01, 0.97]])
    queries = torch.tensor([[1.0, 0], [0, 0]]).view(1, 1, 2, 2)  # one looks near, the other at all alike
    policy = HeadKV(type_at=5, local=3)
    assert policy.choose(view_of(queries, keys, pinned=1)).tolist() == [1]
    assert policy.choose(view_of(queries[:, :, :1], keys, pinned=1)).tolist() == [0]
    assert replace(policy, mass=0.6).choose(view_of(queries, keys, pinned=1)).tolist() == [0]


@pytest.mark.parametrize(
    ("split", "leaving"),
    [
        # of the history, positions 2 to 8, the older 3 and the younger 4, or the older 5 and the younger 2
        (0.5, [3, 6, 2, 5, 4, 8, 7, 9, 10]),
        (0.75, [6, 8, 3, 7, 5, 2, 4, 9, 10]),
    ],
)
def test_the_worst_of_both_parts_of_the_history_leave_in_turns(split: float, leaving: list[int]) -> None:
    position = torch.tensor([[10, 3, 0, 8, 2, 5, 7, 4, 1, 6, 9]])
    answers = {0: -9.0, 1: -9.0, 2: 0.5, 3: -0.3, 4: 0.9, 5: 0.2, 6: -0.9, 7: 0.4, 8: 0.3, 9: -5.0, 10: -7.0}
    keys = torch.zeros(1, 11, 2)
    keys[0, :, 0] = torch.tensor([answers[int(own)] for own in position[0]])
    keys[0, :, 1] = torch.randn(11)  # the two queries' difference, of which nothing is left in the mean
    queries = torch.tensor([[1.0, 5], [1, -5]]).view(1, 2, 1, 2)
    view = view_of(queries, keys, pinned=2, position=position)
    priority = HeadKV(local=2, split=split).priority(view)
    assert priority.shape == (1, 11)
    order = [int(own) for own in position[0, priority[0].argsort()] if own >= 2]
    assert order == leaving


def test_slots_are_those_of_two_kinds() -> None:
    assert HeadKV().keeps(PRO, 24) == [[Keep(100, 24, ranked=True, role="untyped")] * 16] * 24
    assert HeadKV().choices(PRO, 24) == [Keep(72, 24, role="local"), Keep(120, 24, ranked=True, role="global")]
    assert HeadKV(60).choices(PRO, 24) == [Keep(60, 24, role="local"), Keep(60, 24, ranked=True, role="global")]
    assert HeadKV(1.0).keeps(PRO, 24) == [[Keep(599, 24)] * 16] * 24
    assert HeadKV(1.0).replan_at(PRO, 24) is None


@pytest.mark.parametrize(
    ("policy", "prompt", "at"),
    [
        (HeadKV(), 24, 100),
        (HeadKV(), 46, 100),
        (HeadKV(), 47, 101),  # 54 image tokens are the fewest of which a head that looks at all alike needs 48
        (HeadKV(), 90, 144),
        (HeadKV(local=30), 90, 124),
        (HeadKV(mass=0.5), 90, 186),
        (HeadKV(type_at=200), 90, 200),
    ],
)
def test_after_a_long_prompt_heads_are_typed_when_one_can_be_found_global(policy: HeadKV, prompt: int, at: int) -> None:
    assert policy.replan_at(PRO, prompt) == at


def test_pictures_too_small_for_types_are_refused() -> None:
    with pytest.raises(UserError, match="typed at 100 tokens of 39") as refusal:
        plan(tiny(), HeadKV(30))
    check_sentence(refusal.value)
    assert plan(tiny(), HeadKV(1.0)) == plan(tiny())  # nothing is to be dropped, and nobody is typed


def test_types_may_come_as_late_as_the_last_token() -> None:
    policy = HeadKV(10, type_at=14, local=3)
    drawn = generate(model_of(), ["ab"], policy, temperature=WARM)
    assert (
        drawn.memory.kv_bytes
        < plan(model_of(), policy, prompt="ab").kv_bytes
        == plan(model_of(), policy, prompt=4).kv_bytes
    )


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        (lambda: HeadKV(0), "budget of 0"),
        (lambda: HeadKV(refresh=0), "refresh"),
        (lambda: HeadKV(type_at=0), "type_at"),
        (lambda: HeadKV(mass=0.0), "mass"),
        (lambda: HeadKV(mass=1.0), "mass"),
        (lambda: HeadKV(local=0), "local"),
        (lambda: HeadKV(split=0.0), "split"),
        (lambda: HeadKV(split=1.0), "split"),
        (lambda: plan(model_of(), HeadKV(4, type_at=9, local=3), prompt=4), "does not hold the 4 pinned"),
        (lambda: plan(model_of(), HeadKV(7, type_at=9, local=3), prompt=4), "a global head with 7 slots"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong: Callable[[], Any], about: str) -> None:
    with pytest.raises(UserError, match=about) as refusal:
        wrong()
    check_sentence(refusal.value)


CHANGES: list[dict[str, Any]] = [
    {"budget": 10},
    {"type_at": 7},
    {"mass": 0.5},
    {"local": 4},
    {"refresh": 1},
    {"split": 0.8},
]


@pytest.mark.parametrize("change", CHANGES, ids=[next(iter(change)) for change in CHANGES])
def test_each_parameter_changes_what_is_drawn(change: dict[str, Any]) -> None:
    model, policy = tiny(rows=5, columns=4), HeadKV(14, type_at=10, local=3)
    prompts = ["ab", "cd", "ef"]
    assert not draw(model, policy, prompts, 3.0).like(draw(model, replace(policy, **change), prompts, 3.0))


def test_every_parameter_is_among_the_changes() -> None:
    assert [next(iter(change)) for change in CHANGES] == [field.name for field in fields(HeadKV)]


def test_running_out_of_memory_while_tokens_move_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: list[weakref.ref[Tensor]] = []
    plain = GrowingSlots.hand_over

    def hand_over(slots: GrowingSlots, pairs: Tensor, to: Slots) -> None:
        plain(slots, pairs, to)
        if not pairs.is_meta:
            tensors.extend(weakref.ref(part) for own in (slots, to) for part in tensors_of(own))
            if isinstance(to, RankedSlots):
                raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(GrowingSlots, "hand_over", hand_over)
    with pytest.raises(OutOfMemoryError) as refusal:
        generate(model_of(), ["ab"], POLICY)
    check_sentence(refusal.value)
    assert tensors
    gc.collect()
    assert all(tensor() is None for tensor in tensors)


def test_kept_tokens_type_heads_too() -> None:
    model = model_of()
    whole = generate(model, ["ab"], POLICY, temperature=WARM)
    keep = torch.arange(model.geometry.tokens) < 8
    begun = generate(model, ["ab"], POLICY, temperature=WARM, start=whole.tokens, keep=keep)
    assert begun.tokens.equal(whole.tokens)
    assert begun.memory == whole.memory
