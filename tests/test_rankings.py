"""Who leaves first, by each method's description, where it is evident."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from ssd_core.models.base import Geometry
from ssd_core.policies import ADSA, H2O, Keep, LineAR, RankingPolicy, SnapKV, View
from ssd_core.policies.views import attention_of_queries, two_rows
from tests.views import order_of, view_of

PRO = Geometry(24, 16, 16, 128, 24, 24, 16384)  # Janus-Pro-1B
# of each position the weight it has in the softmax of a query of 1; slots are in no order of position
WEIGHTS = {4: 10.0, 9: 100.0, 0: 1.0, 7: 5.0, 2: 2.0, 8: 100.0, 6: 0.5, 5: 1.2}


def weighing(weights: dict[int, float], queries: int, columns: int = 4, pinned: int = 0) -> View:
    """A view whose newest queries are all 1, so that each attends by these weights to what it sees."""
    return view_of(
        list(weights),
        keys=[[math.log(weight)] for weight in weights.values()],
        queries=[[[1.0]]] * queries,
        columns=columns,
        pinned=pinned,
    )


@pytest.mark.parametrize(
    ("policy", "pinned"),
    [
        (H2O(120), 24),
        (H2O(0.2, pin_prompt=False), 0),
        (SnapKV(120), 24),
        (SnapKV(0.2, pin_prompt=False), 0),
        (LineAR(120), 28),
        (LineAR(0.2, anchors=0), 24),
        (ADSA(120), 24),
        (ADSA(0.2, pin_prompt=False), 0),
        (ADSA(0.2, recent=95, offload=True), 24),
    ],
)
def test_every_head_gets_the_budget_and_is_ranked(policy: RankingPolicy, pinned: int) -> None:
    assert {keep for layer in policy.keeps(PRO, 24) for keep in layer} == {Keep(120, pinned, ranked=True)}
    assert policy.fade(PRO) == 1


@pytest.mark.parametrize(
    ("policy", "scores", "queries"),
    [
        (H2O(), True, 0),
        (SnapKV(), False, 25),
        (SnapKV(window=3), False, 3),
        (SnapKV(window=10_000), False, 576),
        (LineAR(), False, 24),
        (ADSA(), False, 0),
    ],
)
def test_a_method_asks_for_what_it_ranks_by(policy: RankingPolicy, scores: bool, queries: int) -> None:
    assert (policy.scores, policy.queries(PRO)) == (scores, queries)


@pytest.mark.parametrize(("refresh", "steps"), [("row", 24), (1, 1)])
@pytest.mark.parametrize("method", [H2O, SnapKV, LineAR, ADSA])
def test_a_refresh_is_a_row_or_a_count(method: Any, refresh: Any, steps: int) -> None:
    assert method(refresh=refresh).steps_between(PRO) == steps


@pytest.mark.parametrize(
    ("recent", "order"), [(None, [2, 6, 1, 5, 7, 8, 9]), (2, [2, 7, 6, 1, 5, 8, 9]), (0, [2, 7, 9, 6, 1, 5, 8])]
)
def test_h2o_keeps_heavy_hitters_and_the_newest_half(recent: int | None, order: list[int]) -> None:
    view = view_of([7, 1, 9, 6, 2, 5, 8], [0.1, 5.0, 0.2, 0.3, 0.0, 900.0, 5e4])
    assert order_of(H2O(recent=recent), view) == order


def test_queries_attend_to_what_came_before_them() -> None:
    weights = {2: 4.0, 0: 1.0, 1: 3.0}
    # at 1 a quarter and three, at 2 an eighth, three and four
    torch.testing.assert_close(
        attention_of_queries(weighing(weights, 2)), torch.tensor([[4 / 8, 1 / 4 + 1 / 8, 3 / 4 + 3 / 8]])
    )
    # a second query head, to which all keys are alike
    two = replace(weighing(weights, 2), queries=torch.tensor([[[[1.0], [0.0]]] * 2]))
    torch.testing.assert_close(
        attention_of_queries(two),
        torch.tensor([[4 / 8 + 1 / 3, 1 / 4 + 1 / 8 + 1 / 2 + 1 / 3, 3 / 4 + 3 / 8 + 1 / 2 + 1 / 3]]),
    )


def test_a_query_of_which_nothing_is_left_to_see_counts_for_nothing() -> None:
    view = weighing({5: 1.0, 4: 1.0}, queries=4)  # those at 2 and 3 are older than all that is held
    torch.testing.assert_close(attention_of_queries(view), torch.tensor([[0.5, 1.5]]))


def test_attention_is_scaled_as_in_the_model() -> None:
    view = view_of([0, 1], keys=[[2 * math.log(3.0), 0, 0, 0], [0.0] * 4], queries=[[[1.0, 0, 0, 0]]])
    torch.testing.assert_close(attention_of_queries(view), torch.tensor([[0.75, 0.25]]))


@pytest.mark.parametrize(
    ("pool", "order"),
    [
        (1, [6, 0, 5, 2, 7, 4, 8, 9]),
        # sums of three: 0 has 1, 2 has 2, 7 has 5.5 (the window does not count), 6 has 6.7, 4 has 11.2, 5 has 11.7
        (3, [0, 2, 7, 6, 4, 5, 8, 9]),
    ],
)
def test_snapkv_keeps_the_window_and_clusters_of_what_it_attends(pool: int, order: list[int]) -> None:
    assert order_of(SnapKV(window=2, pool=pool), weighing(WEIGHTS, 2)) == order


def test_snapkv_s_window_is_a_row_and_one_token() -> None:
    assert order_of(SnapKV(pool=1), weighing(WEIGHTS, 4, columns=3)) == [0, 5, 2, 4, 6, 7, 8, 9]


def test_line_ar_drops_what_the_row_attends_least() -> None:
    assert order_of(LineAR(recent=3), weighing(WEIGHTS, 3)) == [6, 0, 5, 2, 4, 7, 8, 9]
    assert order_of(LineAR(recent=1), weighing(WEIGHTS, 1)) == [6, 0, 5, 2, 7, 4, 8, 9]
    assert order_of(LineAR(), weighing(WEIGHTS, 2, columns=1)) == [6, 0, 5, 2, 7, 4, 8, 9]


@pytest.mark.parametrize(
    ("slots", "pinned", "kept"), [(120, 24, 48), (90, 10, 40), (75, 24, 25), (48, 24, 25), (599, 0, 48)]
)
def test_recent_rows_are_two_where_there_is_room(slots: int, pinned: int, kept: int) -> None:
    assert two_rows(24, slots - pinned) == kept


def test_adsa_s_recent_rows_are_a_matter_of_the_slots_and_not_of_the_tokens_ranked() -> None:
    values = [[0.0, 1]] * 2 + [[0.0, 3], [1.0, 0.1], [5.0, 0], [1.0, -0.3]] + [[0.0, 1]] * 2
    view = view_of(list(range(8)), values=values, columns=2, pinned=2)
    assert order_of(ADSA(), view) == [3, 4, 2, 5, 6, 7]  # half of six
    assert order_of(ADSA(offload=True), replace(view, slots=10)) == [2, 3, 4, 5, 6, 7]  # two rows


BETWEEN = {2: [5.0, 0], 5: [1.0, -0.3], 3: [1.0, 0.1], 4: [0.0, 3]}  # means of cosines: .65, .53, .67, -.06


def test_adsa_drops_what_is_most_like_the_rest() -> None:
    # what is pinned and what is recent all look like 4, and do not count
    values = {7: [0.0, 1], 0: [0.0, 1], 6: [0.0, 1], 1: [0.0, 1]} | BETWEEN
    view = view_of(list(values), values=list(values.values()), pinned=2)
    assert order_of(ADSA(recent=2), view) == [3, 2, 5, 4, 6, 7]
    assert order_of(ADSA(), replace(view, columns=1)) == [3, 2, 5, 4, 6, 7]
    # where nothing is kept for being recent, 4 is like 6 and 7, and they like it
    first, second, *_, last = order_of(ADSA(recent=0), view)
    assert (first, second, last) == (3, 2, 5)


def test_a_value_of_zeros_is_like_no_other() -> None:
    view = view_of([0, 1, 2, 3], values=[[1.0, 0], [0.0, 0], [1.0, 0.1], [9.0, 9]])
    assert order_of(ADSA(recent=1), view)[2:] == [1, 3]


def test_rounding_decides_nothing() -> None:
    """Two tokens are as like each other as the other way round, and neighbours share what they are pooled from."""
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        values = torch.randn(3, 64, generator=random).tolist()
        priority = ADSA(recent=1).priority(view_of([0, 1, 2], values=values))[0]
        assert priority[0] == priority[1]
        tiny = 1e-9 * torch.rand(2, generator=random)
        weights = {0: float(tiny[0]), 1: 1.0, 2: 0.3, 3: 1.0, 4: float(tiny[1]), 5: 0.1}
        priority = SnapKV(window=1, pool=3).priority(weighing(weights, 1))[0]
        assert priority[1] == priority[3]
