"""Any model, any prompts, any budget: what the naive reference draws, or one clear sentence."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import ssd_core
from ssd_core import SSD, Full, Policy, StreamingLLM, UserError, Window
from ssd_core.models.base import Geometry
from tests.table import check_sentence, draw, naive
from tests.tiny import TinyModel, random_map

GROUPS = st.integers(1, 3)
TIED = 1e-5  # scores that differ by a smaller share of themselves may stand the other way round for rounding
TEXT = st.sampled_from(["", "a", "bcd", "efghijklm"])


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    kv_heads = draw(st.integers(1, 4))
    grid = draw(st.integers(1, 6)), draw(st.integers(2, 6))
    return Geometry(draw(st.integers(1, 3)), kv_heads * draw(GROUPS), kv_heads, 8, *grid, 20)


@st.composite
def policies(draw: st.DrawFn, geometry: Geometry) -> Policy:
    budget: int | float = draw(
        st.one_of(st.integers(2, geometry.tokens + 13), st.floats(0.05, 1.0), st.sampled_from([0.25, 0.5, 1.0]))
    )
    kind = draw(st.sampled_from(["ssd", "literal", "window", "streaming", "full"]))
    if kind == "full":
        return Full()
    if kind == "window":
        return Window(budget, draw(st.booleans()))
    if kind == "streaming":
        return StreamingLLM(budget, draw(st.integers(0, 6)))
    refresh: int | Literal["row"] = draw(st.sampled_from([1, 2, 3, "row", geometry.columns + 2]))
    tau = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
    head_map = random_map(geometry, draw(st.integers(0, 9)))
    if kind == "literal":
        return SSD(budget, refresh, tau, literal=True, head_map=head_map)
    return SSD(
        budget,
        refresh,
        tau,
        recent=draw(st.sampled_from([None, 0, 1, 3, 100])),
        half_life=draw(st.sampled_from([None, 0.5, 3.0])),
        pin_prompt=draw(st.sampled_from([None, True, False])),
        head_map=head_map,
    )


@settings(max_examples=60)
@given(
    data=st.data(),
    geometry=geometries(),
    prompts=st.lists(TEXT, min_size=1, max_size=2),
    guidance=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_any_drawing_is_the_reference_s(
    data: st.DataObject, geometry: Geometry, prompts: list[str], guidance: float, seed: int
) -> None:
    model, policy = TinyModel(geometry, seed=seed), data.draw(policies(geometry))
    negative = data.draw(st.one_of(st.none(), TEXT)) if guidance != 1 else None
    event(type(policy).__name__)
    try:
        drawn = draw(model, policy, prompts, guidance, negative=negative)
    except UserError as error:
        event("refused")
        check_sentence(error)
        with pytest.raises(UserError):  # what cannot be drawn cannot be planned either
            ssd_core.generate(model, prompts, policy, guidance=guidance, negative=negative)
    else:
        expected = naive(model, policy, prompts, guidance, negative=negative)
        tied = expected.closest < TIED
        event("nearly tied" if tied else "settled")
        assert tied or drawn.like(expected)
