from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_core import (
    ADSA,
    H2O,
    METHODS,
    SSD,
    Diagonal,
    Full,
    LineAR,
    Policy,
    Reach,
    SnapKV,
    StreamingLLM,
    UserError,
    Window,
    plan,
)
from ssd_core.cache.cache import SlotCache
from ssd_core.heads.headmap import HeadMap
from ssd_core.models.base import Geometry
from ssd_core.policies import Keep
from tests.table import check_sentence
from tests.tiny import TinyModel, random_map, tiny
from tests.views import order_of, view_of

PRO = Geometry(24, 16, 16, 128, 24, 24, 16384)  # Janus-Pro-1B
GROUPED = Geometry(4, 8, 2, 16, 6, 5, 32)


def heads_of(policy: Policy, geometry: Geometry, prompt: int) -> list[Keep]:
    return [keep for layer in policy.keeps(geometry, prompt) for keep in layer]


def kinds_of(policy: Policy, geometry: Geometry, prompt: int) -> dict[str, set[Keep]]:
    kinds: dict[str, set[Keep]] = {}
    for keep in heads_of(policy, geometry, prompt):
        kinds.setdefault(keep.role, set()).add(keep)
    return kinds


def of_kind(geometry: Geometry, share: float) -> HeadMap:
    return HeadMap(torch.full((geometry.layers, geometry.heads), share))


def test_every_method_has_its_name_and_works_unless_told_otherwise() -> None:
    model = tiny(rows=24, columns=24)
    mapped: dict[str, Policy] = {
        "ssd": SSD(head_map=random_map(model.geometry)),
        "reach": Reach(head_map=random_map(model.geometry, beyond=True)),
    }
    for policy in (mapped.get(name) or method() for name, method in METHODS.items()):
        assert plan(model, policy).kv_bytes


@pytest.mark.parametrize(
    ("policy", "slots", "pinned"),
    [
        (Full(), 599, 24),
        (Window(), 120, 24),
        (Window(115), 115, 24),
        (Window(0.2, pin_prompt=False), 120, 0),
        (Window(1.0), 599, 24),
        (Window(10_000), 599, 24),
        (StreamingLLM(), 120, 4),
        (StreamingLLM(60, sinks=0), 60, 0),
    ],
)
def test_heads_alike_get_the_budget_each(policy: Policy, slots: int, pinned: int) -> None:
    assert heads_of(policy, PRO, 24) == [Keep(slots, pinned)] * (24 * 16)


@pytest.mark.parametrize(
    ("policy", "keep"),
    [
        (Diagonal(), Keep(24 + 288, 24, attended=120)),
        (Diagonal(115), Keep(24 + 288, 24, attended=115)),
        (Diagonal(0.2, held=1.0), Keep(599, 24, attended=120)),
        (Diagonal(0.52), Keep(312, 24)),  # nothing to skip
        (Diagonal(0.6), Keep(360, 24)),  # what is attended is held
        (Diagonal(1.0), Keep(599, 24)),
        (Diagonal(26), Keep(312, 24, attended=26)),
    ],
)
def test_diagonal_holds_half_of_the_picture_and_attends_its_budget(policy: Policy, keep: Keep) -> None:
    assert heads_of(policy, PRO, 24) == [keep] * (24 * 16)


def test_spatial_heads_keep_a_row_and_one_more_and_semantic_heads_the_rest() -> None:
    head_map = random_map(PRO)
    policy = SSD(0.2, head_map=head_map)
    wide = int((head_map.share > 0.3).sum())
    narrow = 24 * 16 - wide
    kinds = kinds_of(policy, PRO, 24)
    # what flooring leaves over is less than a slot for each semantic head, and spatial heads take it
    rest = (120 * 24 * 16 - 49 * narrow) // wide
    assert kinds["semantic"] == {Keep(rest, 24, ranked=True, role="semantic")}
    (spatial,) = kinds["spatial"]
    assert spatial == Keep((120 * 24 * 16 - rest * wide) // narrow, 24, role="spatial")
    assert 49 <= spatial.slots <= 49 + wide // narrow
    assert [[keep.role == "semantic" for keep in layer] for layer in policy.keeps(PRO, 24)] == (
        head_map.share > 0.3
    ).tolist()


def test_spatial_heads_keep_as_many_tokens_as_they_are_told() -> None:
    head_map = random_map(PRO)
    narrow, wide = (kinds_of(SSD(0.2, spatial=tokens, head_map=head_map), PRO, 24) for tokens in (30, 60))
    for kinds, tokens in ((narrow, 30), (wide, 60)):
        (spatial,), (semantic,) = kinds["spatial"], kinds["semantic"]
        assert spatial.slots - 24 - tokens in range(2)  # what flooring leaves over
        assert semantic.slots > 120 > spatial.slots
    assert max(keep.slots for keep in wide["semantic"]) < min(keep.slots for keep in narrow["semantic"])


@given(
    budget=st.one_of(st.floats(0.02, 1.0), st.integers(2, 50)),
    prompt=st.integers(2, 30),
    tau=st.floats(0, 1),
    seed=st.integers(0, 99),
    literal=st.booleans(),
    pin_prompt=st.booleans(),
    geometry=st.sampled_from([GROUPED, Geometry(2, 4, 4, 8, 1, 6, 9), Geometry(3, 2, 1, 8, 7, 2, 9)]),
)
def test_ssd_never_spends_more_than_the_budget_and_hardly_less(
    budget: int | float,
    prompt: int,
    tau: float,
    seed: int,
    literal: bool,
    pin_prompt: bool,
    geometry: Geometry,
) -> None:
    pinning = {} if literal else {"pin_prompt": pin_prompt}
    policy = SSD(budget, tau=tau, literal=literal, head_map=random_map(geometry, seed), **pinning)
    pinned = 0 if literal or not pin_prompt else prompt
    whole = geometry.cached_tokens(prompt)
    mean = min(int(budget * (prompt + geometry.tokens)) if isinstance(budget, float) else budget, whole)
    if mean <= pinned:
        with pytest.raises(UserError) as refusal:
            policy.keeps(geometry, prompt)
        check_sentence(refusal.value)
        return
    keeps = heads_of(policy, geometry, prompt)
    assert all(keep.pinned == pinned < keep.slots <= whole for keep in keeps)
    spent = sum(keep.slots for keep in keeps)
    assert mean * len(keeps) - len(keeps) < spent <= mean * len(keeps)
    kinds = kinds_of(policy, geometry, prompt)
    assert all(len(kind) == 1 for kind in kinds.values())
    if len(kinds) == 1:
        assert spent == mean * len(keeps)  # all heads of one kind get the budget each
    else:
        (spatial,), (semantic,) = kinds["spatial"], kinds["semantic"]
        assert spatial.slots >= min(pinned + geometry.columns + 1, mean)
        assert semantic.slots >= mean
        # more than a row and one is only for what semantic heads have no use for
        spare = spent - sum(min(keep.slots, pinned + geometry.columns + 1) for keep in keeps if not keep.ranked)
        assert semantic.slots == whole or spare - semantic.slots * keeps.count(semantic) < keeps.count(semantic)


@pytest.mark.parametrize(("share", "role"), [(0.9, "semantic"), (0.1, "spatial")])
def test_heads_of_one_kind_get_the_budget_each(share: float, role: str) -> None:
    policy = SSD(0.2, head_map=of_kind(PRO, share))
    assert heads_of(policy, PRO, 24) == [Keep(120, 24, role == "semantic", role)] * (24 * 16)


def test_a_budget_below_a_row_and_one_gives_every_head_the_same() -> None:
    kinds = kinds_of(SSD(40, head_map=random_map(PRO)), PRO, 24)
    assert {keep.slots for kind in kinds.values() for keep in kind} == {40}


def test_literal_pins_nothing() -> None:
    policy = SSD(0.2, literal=True, head_map=random_map(PRO))
    assert {keep.pinned for keep in heads_of(policy, PRO, 24)} == {0}
    assert min(keep.slots for keep in heads_of(policy, PRO, 24)) < 49  # no prompt to make room for


def test_query_heads_that_share_keys_are_judged_by_their_mean() -> None:
    share = torch.tensor([[0.1, 0.1, 0.1, 0.8, 0.9, 0.1, 0.2, 0.2]]).repeat(4, 1)
    roles = [keep.role for keep in SSD(0.5, head_map=HeadMap(share)).keeps(GROUPED, 9)[0]]
    assert roles == ["spatial", "semantic"]  # means of .275 and .35


@pytest.mark.parametrize(
    ("recent", "order"), [(None, [2, 1, 5, 6, 7, 8, 9]), (2, [2, 7, 6, 1, 5, 8, 9]), (0, [2, 7, 9, 6, 1, 5, 8])]
)
def test_recent_tokens_stand_above_every_score(recent: int | None, order: list[int]) -> None:
    view = view_of([7, 1, 9, 6, 2, 5, 8], [0.1, 5.0, 0.2, 0.3, 0.0, 900.0, 5e4])
    assert order_of(SSD(recent=recent), view) == order


def test_half_of_the_slots_are_for_recent_tokens_where_that_is_more_than_a_row() -> None:
    view = view_of([7, 1, 9, 6, 2, 5, 8], [0.1, 5.0, 0.2, 0.3, 0.0, 900.0, 5e4], columns=1)
    assert order_of(SSD(), view) == [2, 6, 1, 5, 7, 8, 9]


def test_literal_ranks_by_the_score_alone() -> None:
    view = view_of([7, 1, 9, 6, 2, 5, 8], [0.1, 5.0, 0.2, 0.3, 0.0, 900.0, 5e4])
    assert order_of(SSD(literal=True), view) == [2, 7, 9, 6, 1, 5, 8]


@pytest.mark.parametrize(("half_life", "rows"), [(None, 1.0), (0.5, 0.5), (3.0, 3.0)])
def test_scores_halve_in_the_half_life(half_life: float | None, rows: float) -> None:
    assert SSD(half_life=half_life).fade(PRO) ** (24 * rows) == pytest.approx(0.5)


def test_literal_scores_never_fade() -> None:
    assert SSD(literal=True).fade(PRO) == 1


@pytest.mark.parametrize(("refresh", "steps"), [("row", 24), (1, 1), (50, 50)])
def test_a_refresh_is_a_row_or_a_count(refresh: Any, steps: int) -> None:
    assert SSD(refresh=refresh).steps_between(PRO) == steps


@pytest.mark.parametrize(
    ("wrong", "about"),
    [
        (lambda: Window(0), "budget of 0"),
        (lambda: Window(1), "budget of 1"),
        (lambda: Window(-3), "budget of -3"),
        (lambda: Window(0.0), "this one is 0.0"),
        (lambda: Window(1.2), "this one is 1.2"),
        (lambda: Window(math.nan), "budget share"),
        (lambda: Window(True), "not True"),
        (lambda: Window("0.2"), "not '0.2'"),  # type: ignore[arg-type]
        (lambda: StreamingLLM(0.0), "this one is 0.0"),
        (lambda: StreamingLLM(sinks=-1), "sinks"),
        (lambda: Diagonal(0), "budget of 0"),
        (lambda: Diagonal(held=0.0), "held"),
        (lambda: Diagonal(held=1.1), "held"),
        (lambda: Diagonal(held=math.nan), "held"),
        (lambda: SSD(0), "budget of 0"),
        (lambda: SSD(refresh=0), "refresh"),
        (lambda: SSD(refresh=True), "refresh"),
        (lambda: SSD(refresh="rows"), "refresh"),  # type: ignore[arg-type]
        (lambda: SSD(refresh=2.0), "refresh"),  # type: ignore[arg-type]
        (lambda: SSD(tau=-0.1), "tau"),
        (lambda: SSD(tau=1.1), "tau"),
        (lambda: SSD(tau=math.nan), "tau"),
        (lambda: SSD(recent=-1), "recent"),
        (lambda: H2O(0), "budget of 0"),
        (lambda: H2O(refresh=0), "refresh"),
        (lambda: H2O(recent=-1), "recent"),
        (lambda: SnapKV(0), "budget of 0"),
        (lambda: SnapKV(refresh=0), "refresh"),
        (lambda: SnapKV(window=0), "window"),
        (lambda: SnapKV(pool=0), "pool"),
        (lambda: SnapKV(pool=4), "pool"),
        (lambda: SnapKV(pool=-1), "pool"),
        (lambda: LineAR(0), "budget of 0"),
        (lambda: LineAR(refresh=0), "refresh"),
        (lambda: LineAR(anchors=-1), "anchors"),
        (lambda: LineAR(recent=-1), "recent"),
        (lambda: ADSA(0), "budget of 0"),
        (lambda: ADSA(refresh=0), "refresh"),
        (lambda: ADSA(recent=-1), "recent"),
        (lambda: SSD(spatial=0), "spatial"),
        (lambda: SSD(half_life=0.0), "half_life"),
        (lambda: SSD(half_life=math.nan), "half_life"),
        (lambda: SSD(literal=True, recent=3), "literal"),
        (lambda: SSD(literal=True, half_life=3.0), "literal"),
        (lambda: SSD(literal=True, pin_prompt=True), "literal"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong: Callable[[], Policy], about: str) -> None:
    with pytest.raises(UserError, match=about) as refusal:
        wrong()
    check_sentence(refusal.value)


@pytest.mark.parametrize(
    ("policy", "about"),
    [
        (Window(24), "The budget, 24 tokens, does not hold the 24 pinned .* at least 25 tokens"),
        (Window(0.04), "The budget, 0.04 of 600 tokens, 24, does not hold the 24 pinned"),
        (StreamingLLM(4), "The budget, 4 tokens, does not hold the 4 pinned"),
        (Diagonal(24), "The budget, 24 tokens, does not hold the 24 pinned"),
        (Diagonal(25), "To skip a token .* at least 26 tokens, 24 of them the prompt's"),
        (SSD(20, head_map=of_kind(PRO, 0.5)), "The budget, 20 tokens, does not hold the 24 pinned"),
        (ADSA(49, offload=True), "Of 49 slots, 24 of them pinned, the 25 newest tokens .* no effect; raise the budget"),
        (ADSA(0.2, recent=96, offload=True), "Of 120 slots, 24 of them pinned, the 96 newest .* no effect"),
        (LineAR(28), "The budget, 28 tokens, does not hold the 28 pinned .* at least 29 tokens"),
        (SSD(0.2), "head_map"),
    ],
)
def test_budgets_that_hold_no_image_token_are_refused(policy: Policy, about: str) -> None:
    with pytest.raises(UserError, match=about) as refusal:
        policy.keeps(PRO, 24)
    check_sentence(refusal.value)


@pytest.mark.parametrize("budget", [25, 26])
def test_one_image_token_is_enough(budget: int) -> None:
    assert {keep.slots for keep in heads_of(Window(budget), PRO, 24)} == {budget}


def cache_of(policy: Policy, prompt: int = 5) -> SlotCache:
    return SlotCache(policy, GROUPED, [prompt], torch.float32, "meta")


@pytest.mark.parametrize(
    ("slots", "refresh", "fits"),
    [
        (10, 5, True),
        (10, 6, False),
        (9, "row", False),
        (10, "row", True),
        (33, 28, True),  # 5 + 30 - 2: one token will not find a slot
        (33, 29, False),
        (34, 29, True),  # the whole: nothing is ever ranked
        (34, 1000, True),
    ],
)
def test_a_refresh_may_not_choose_more_than_can_be_dropped(slots: int, refresh: Any, fits: bool) -> None:
    policy = SSD(slots, refresh=refresh, head_map=of_kind(GROUPED, 0.9))
    if fits:
        assert cache_of(policy).kv_bytes
        return
    for role, refused in (("semantic ", policy), ("", H2O(slots, refresh=refresh))):
        sentence = f"but a {role}head with {slots} slots, 5 of them pinned, has {slots - 5};"
        with pytest.raises(UserError, match=sentence) as refusal:
            cache_of(refused)
        check_sentence(refusal.value)


def test_a_window_has_no_refresh_to_fit() -> None:
    assert cache_of(SSD(6, refresh=1000, head_map=of_kind(GROUPED, 0.1))).kv_bytes


def test_a_map_of_another_model_is_refused() -> None:
    with pytest.raises(UserError, match="4 layers x 8 heads, but the model has 2 x 4") as refusal:
        SSD(head_map=of_kind(GROUPED, 0.5)).fit(tiny())
    check_sentence(refusal.value)


def test_a_model_without_a_map_is_refused() -> None:
    model = TinyModel(Geometry(7, 3, 3, 8, 2, 2, 9), device="meta")
    with pytest.raises(UserError, match="No head map is known for tiny") as refusal:
        SSD().fit(model)
    check_sentence(refusal.value)
