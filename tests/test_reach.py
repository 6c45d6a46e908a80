"""The budgets of Reach, and who leaves first in its far heads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_core import Reach, UserError
from ssd_core.heads.headmap import HeadMap
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep
from tests.table import check_sentence
from tests.tiny import random_map, tiny
from tests.views import order_of, view_of

WIDE = Geometry(2, 2, 2, 8, 5, 6, 9)
GROUPED = Geometry(3, 4, 2, 8, 5, 6, 9)


def map_of(reaches: list[list[int]], columns: int) -> HeadMap:
    """Heads that lose half of their attention beyond any shorter window, and nothing beyond these; 0 looks too far."""
    beyond = torch.full((len(reaches), len(reaches[0]), columns + 1), 0.5)
    for layer, row in enumerate(reaches):
        for head, reach in enumerate(row):
            if reach:
                beyond[layer, head, reach - 1 :] = 0
    return HeadMap(torch.zeros(beyond.shape[:2]), beyond=beyond, peak=torch.zeros(beyond.shape[:2]))


def sizes(policy: Reach, geometry: Geometry, prompt: int) -> list[list[int]]:
    return [[keep.slots for keep in layer] for layer in policy.keeps(geometry, prompt)]


def test_near_heads_hold_what_they_look_back_and_far_heads_the_rest() -> None:
    policy = Reach(15, head_map=map_of([[3, 0], [7, 0]], 6))
    # of 60 slots near heads take 4 + 3 and 4 + 7, the far ones half of the rest each
    assert sizes(policy, WIDE, 4) == [[7, 21], [11, 21]]
    assert policy.keeps(WIDE, 4)[0] == [Keep(7, 4, role="near"), Keep(21, 4, ranked=True, role="far")]


def test_where_far_heads_have_four_rows_whoever_once_looked_far_is_one() -> None:
    head_map = map_of([[3, 0], [7, 2]], 6)
    assert head_map.peak is not None
    head_map.peak[:] = torch.tensor([[0.66, 0.9], [0.4, 0.67]])
    policy = Reach(20, head_map=head_map)
    assert sizes(policy, WIDE, 4) == [[11, 29], [11, 29]]
    assert policy.keeps(WIDE, 4)[1][1] == Keep(29, 4, ranked=True, role="far")
    # one slot less, and two far heads would have less than 4 rows of 6 tokens
    assert sizes(replace(policy, budget=19), WIDE, 4) == [[14, 33], [14, 14]]
    # with one far head there is enough
    head_map.peak[1, 1] = 0.66
    assert sizes(replace(policy, budget=16), WIDE, 4) == [[11, 31], [11, 11]]


def test_windows_are_cut_before_far_heads_have_less_than_the_mean() -> None:
    assert sizes(Reach(8, head_map=map_of([[3, 0], [7, 0]], 6)), WIDE, 4) == [[7, 8], [9, 8]]


def test_what_far_heads_cannot_use_goes_back_to_the_narrowest_windows() -> None:
    # a far head can use 4 + 30 - 1; of 88 slots that leaves 22, which two windows share alike
    assert sizes(Reach(22, head_map=map_of([[3, 0], [7, 0]], 6)), WIDE, 4) == [[11, 33], [11, 33]]


def test_without_far_heads_all_share_what_their_windows_leave() -> None:
    assert sizes(Reach(10, head_map=map_of([[3, 1], [7, 1]], 6)), WIDE, 4) == [[9, 9], [11, 9]]


def test_query_heads_that_share_keys_hold_what_the_farthest_needs() -> None:
    policy = Reach(0.9, head_map=map_of([[2, 5, 1, 1], [0, 2, 7, 7], [1, 1, 6, 6]], 6))
    assert policy.head_map is not None
    assert policy.head_map.reach(0.02, GROUPED).tolist() == [[5, 1], [0, 7], [1, 6]]


def test_more_may_be_lost_when_told_so() -> None:
    falling = torch.tensor([[[0.5, 0.2, 0.04, 0.01, 0.0]]])
    head_map = HeadMap(torch.zeros(1, 1), beyond=falling, peak=torch.ones(1, 1))
    one = Geometry(1, 1, 1, 8, 3, 4, 9)
    assert [int(head_map.reach(lost, one)) for lost in (0.6, 0.2, 0.1, 0.02, 0.0)] == [1, 2, 3, 4, 5]
    far = HeadMap(torch.zeros(1, 1), beyond=falling + 0.1, peak=torch.ones(1, 1))
    assert int(far.reach(0.05, one)) == 0


def test_a_map_that_knows_only_shares_has_near_heads_hold_a_row_and_a_token() -> None:
    head_map = HeadMap(torch.tensor([[0.1, 0.8], [0.3, 0.31]]))
    assert head_map.reach(0.5, WIDE).tolist() == [[7, 0], [7, 0]]


@given(
    budget=st.one_of(st.floats(0.02, 1.0), st.integers(2, 60)),
    prompt=st.integers(2, 30),
    seed=st.integers(0, 99),
    lost=st.sampled_from([0.0, 0.02, 0.2, 0.9]),
    geometry=st.sampled_from([WIDE, GROUPED, Geometry(2, 4, 4, 8, 1, 6, 9), Geometry(3, 2, 1, 8, 7, 2, 9)]),
)
def test_never_more_than_the_budget_and_hardly_less(
    budget: int | float, prompt: int, seed: int, lost: float, geometry: Geometry
) -> None:
    policy = Reach(budget, lost=lost, head_map=random_map(geometry, seed, beyond=True))
    whole = geometry.cached_tokens(prompt)
    mean = min(int(budget * (prompt + geometry.tokens)) if isinstance(budget, float) else budget, whole)
    if mean <= prompt:
        with pytest.raises(UserError) as refusal:
            policy.keeps(geometry, prompt)
        check_sentence(refusal.value)
        return
    keeps = [keep for layer in policy.keeps(geometry, prompt) for keep in layer]
    assert all(keep.pinned == prompt < keep.slots <= whole for keep in keeps)
    spent = sum(keep.slots for keep in keeps)
    assert mean * len(keeps) - len(keeps) < spent <= mean * len(keeps)
    assert all(keep.slots >= mean for keep in keeps if keep.role == "far")
    if mean == whole:
        assert {keep.slots for keep in keeps} == {whole}


def test_the_newest_half_stays_and_of_the_rest_what_was_attended_most() -> None:
    view = view_of([0, 7, 2, 9, 3, 8, 4], [9.0, 0.1, 0.5, 0.0, 5.0, 0.0, 0.2], pinned=1)
    assert order_of(Reach(), view) == [4, 2, 3, 7, 8, 9]


def test_attention_fades_by_half_in_half_a_row() -> None:
    assert Reach().fade(WIDE) ** 3 == pytest.approx(0.5)
    assert Reach(half_life=2).fade(WIDE) ** 12 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "word"),
    [({"lost": 1.0}, "lost"), ({"lost": -0.1}, "lost"), ({"half_life": 0.0}, "half_life"), ({"refresh": 0}, "refresh")],
)
def test_what_cannot_be_is_refused(values: dict[str, float], word: str) -> None:
    with pytest.raises(UserError, match=word) as refusal:
        Reach(**values)  # type: ignore[arg-type]
    check_sentence(refusal.value)


def test_lost_is_refused_where_nobody_knows_how_far_heads_look() -> None:
    model = tiny()
    with pytest.raises(UserError, match="lost has no effect") as refusal:
        Reach(lost=0.1, head_map=random_map(model.geometry)).fit(model)
    check_sentence(refusal.value)


def test_without_a_map_budgets_are_refused() -> None:
    with pytest.raises(UserError, match="call fit") as refusal:
        Reach().keeps(WIDE, 4)
    check_sentence(refusal.value)
