"""Pictures that begin with tokens of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssd_core import SSD, Full, Policy, UserError, Window, generate, keep_of
from ssd_core.loop import GREY
from ssd_core.models.base import Geometry
from ssd_core.sampling import Sampling
from ssd_core.start import painted
from ssd_core.tokens import UNDRAWN
from ssd_core.turn import Step, Turn
from tests.table import WARM, check_sentence, each_policy, model_of
from tests.tiny import TinyModel, random_map

USUAL: dict[str, Any] = {"guidance": 2.0, "temperature": WARM, "images_per_prompt": 2}


def draw(policy: Policy | None = None, **given: Any) -> Tensor:
    return generate(model_of(), ["ab"], policy, **(USUAL | given)).tokens


def other() -> Tensor:
    """Two pictures that nothing here draws."""
    return torch.randint(20, (2, 12), generator=torch.Generator().manual_seed(8))


@each_policy
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_keeping_a_picture_s_own_first_rows_draws_it_again(policy: Policy, rows: int) -> None:
    plain = draw(policy)
    assert draw(policy, start=plain, keep=torch.arange(12) < 4 * rows).equal(plain)


@each_policy
def test_what_is_kept_stays_and_decides_what_follows(policy: Policy) -> None:
    plain, start = draw(policy), other()
    tokens = draw(policy, start=start, keep=keep_of(model_of().geometry, 1))
    assert tokens[:, :4].equal(start[:, :4])
    assert not tokens[:, 4:].equal(plain[:, 4:])
    assert not tokens[:, 4:].equal(start[:, 4:])


def test_everything_kept_is_the_start_and_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Turn, "feed", lambda *_: pytest.fail("fed"))
    monkeypatch.setattr(Step, "__call__", lambda *_: pytest.fail("drew"))
    result = generate(model_of(), ["ab"], start=other(), keep=torch.ones(12, dtype=torch.bool), **USUAL)
    assert result.tokens.equal(other())
    assert result.images.equal(model_of().decode_image(other()))
    assert (result.drawn, result.tokens_per_second) == (0, 0.0)


def test_tokens_that_are_kept_at_the_beginning_are_fed_and_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled: list[Tensor] = []
    plain = Sampling.next_tokens

    def next_tokens(self: Sampling, logits: Tensor, uniform: Tensor) -> Tensor:
        if logits.device.type != "meta":  # planning draws nothing
            sampled.append(uniform)
        return plain(self, logits, uniform)

    monkeypatch.setattr(Sampling, "next_tokens", next_tokens)
    keep = torch.ones(12, dtype=torch.bool)
    keep[[2, 5]] = False
    rows: list[int] = []

    def on_row(row: int, *_: object) -> None:
        rows.append(row)

    result = generate(model_of(), ["ab"], start=other(), keep=keep, on_row=on_row, step="plain", **USUAL)
    assert len(sampled) == 8 - 2  # to the end of the second row, in which the last is drawn
    assert rows == [0, 1]
    assert result.drawn == 4
    assert result.tokens[:, keep].equal(other()[:, keep])


def test_each_image_has_its_own_start_or_one_is_for_all() -> None:
    start, keep = other(), keep_of(model_of().geometry, 2)
    both = draw(start=start, keep=keep)
    for image in (0, 1):
        alone = draw(start=start[image : image + 1], keep=keep, images_per_prompt=1, seed=image)
        assert alone.equal(both[image : image + 1])
    of_first = draw(start=start[:1], keep=keep)
    assert of_first[:, :8].equal(start[:1, :8].expand(2, -1))
    assert of_first[0].equal(both[0])


def test_each_image_keeps_its_own() -> None:
    start = other()
    keep = torch.stack([torch.zeros(12, dtype=torch.bool), torch.ones(12, dtype=torch.bool)])
    tokens = draw(start=start, keep=keep)
    assert tokens[0].equal(draw()[0])
    assert tokens[1].equal(start[1])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_token_in_the_middle_is_drawn_as_it_was_where_all_before_it_is_the_same(guidance: float) -> None:
    plain = draw(guidance=guidance)
    keep = torch.ones(12, dtype=torch.bool)
    keep[[5, 6, 9]] = False
    start = plain.where(keep, 0)
    assert not start.equal(plain)
    assert draw(start=start, keep=keep, guidance=guidance).equal(plain)
    assert not draw(start=start, keep=keep, guidance=guidance, seed=50).equal(plain)


def test_a_stopped_picture_is_gone_on_with() -> None:
    plain = draw()
    stopped = draw(on_row=lambda row, *_: row == 1)
    assert (stopped[:, 8:] == UNDRAWN).all()
    assert draw(start=stopped, keep=keep_of(model_of().geometry, 2)).equal(plain)


def test_what_is_kept_is_there_though_the_drawing_stops_before_it() -> None:
    keep = torch.zeros(12, dtype=torch.bool)
    keep[10] = True
    result = generate(model_of(), ["ab"], start=other(), keep=keep, on_row=lambda *_: True, **USUAL)
    assert result.tokens[:, 10].equal(other()[:, 10])
    assert (result.tokens[:, [4, 9, 11]] == UNDRAWN).all()
    assert (result.images[:, 4:, :4] == GREY).all()
    assert not (result.images[:, 4:, 4:6] == GREY).all()
    assert result.drawn == 2 * 4


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"keep": None}, "belong together"),
        ({"start": None}, "belong together"),
        ({"start": torch.zeros(12, dtype=torch.int64)}, r"table \[pictures, 12\]"),
        ({"start": torch.zeros(2, 11, dtype=torch.int64)}, r"table \[pictures, 12\]"),
        ({"start": torch.zeros(3, 12, dtype=torch.int64)}, "start is for 3 images, but 2"),
        ({"start": torch.zeros(2, 12)}, "whole numbers"),
        ({"start": torch.full((2, 12), 20)}, r"0\.\.19"),
        ({"start": torch.full((2, 12), -2)}, r"0\.\.19"),
        ({"start": torch.full((2, 12), -1)}, "never drawn"),
        ({"keep": torch.ones(12)}, "bool"),
        ({"keep": torch.ones(11, dtype=torch.bool)}, "bool"),
        ({"keep": torch.ones(1, 1, 12, dtype=torch.bool)}, "bool"),
        ({"keep": torch.ones(3, 12, dtype=torch.bool)}, "mask of what stays is for 3 images, but 2"),
    ],
)
def test_what_no_picture_can_begin_with_is_refused(given: dict[str, Any], about: str) -> None:
    whole = {"start": other(), "keep": torch.ones(12, dtype=torch.bool)}
    with pytest.raises(UserError, match=about) as refusal:
        draw(**(whole | given))
    check_sentence(refusal.value)


GEOMETRY = Geometry(1, 1, 1, 8, rows=3, columns=4, codebook=20)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_first_rows_are_kept(rows: int) -> None:
    assert keep_of(GEOMETRY, rows).tolist() == [True] * 4 * rows + [False] * 4 * (3 - rows)


@pytest.mark.parametrize("rows", [-1, 3, 4])
def test_no_less_than_no_row_and_not_every_row_can_be_kept(rows: int) -> None:
    with pytest.raises(UserError, match=f"0 to 2 can be kept, not {rows}") as refusal:
        keep_of(GEOMETRY, rows)
    check_sentence(refusal.value)


@pytest.mark.parametrize(
    ("given", "about"),
    [
        ({"mask": torch.zeros(64, 64)}, "nothing is left to draw"),
        ({"rows": 2, "mask": torch.ones(6, 8) * (torch.arange(6) < 4)[:, None]}, "nothing is left to draw"),
        ({}, "Nothing of the picture stays"),
        ({"mask": torch.ones(2, 64, 64)}, "Nothing of the picture stays"),
    ],
)
def test_a_start_that_is_all_or_nothing_is_refused(given: dict[str, Any], about: str) -> None:
    with pytest.raises(UserError, match=about) as refusal:
        keep_of(GEOMETRY, **given)
    check_sentence(refusal.value)


def test_one_image_of_several_may_be_left_alone() -> None:
    keep = keep_of(GEOMETRY, mask=torch.stack([torch.zeros(6, 8), torch.ones(6, 8)]))
    assert keep.all(1).tolist() == [True, False]


@pytest.mark.parametrize(("height", "width"), [(6, 8), (30, 40), (3, 4), (31, 41)])
def test_one_pixel_of_a_mask_has_its_cell_redrawn(height: int, width: int) -> None:
    mask = torch.zeros(height, width)
    mask[height // 2, width - 1] = 1  # in the second row, the last column
    [keep] = keep_of(GEOMETRY, mask=mask)
    assert (~keep).nonzero().flatten().tolist() == [7]
    mask[height // 2, width - 1] = 0.4
    assert not painted(GEOMETRY, mask).any()


def test_every_cell_is_its_own_pixels_and_rows_are_kept_beside_a_mask() -> None:
    mask = torch.zeros(12, 6, 8)
    for cell in range(12):
        mask[cell, cell // 4 * 2 + cell % 2, cell % 4 * 2 + 1] = 0.5
    assert keep_of(GEOMETRY, mask=mask).equal(~torch.eye(12, dtype=torch.bool))
    with_rows = keep_of(GEOMETRY, rows=2, mask=mask)
    assert with_rows[:8].all()
    assert with_rows[8:].equal(~torch.eye(12, dtype=torch.bool)[8:])


def test_of_a_mask_of_another_shape_the_centre_counts() -> None:
    wide, high = torch.zeros(6, 20), torch.zeros(16, 8)
    wide[:, :6] = wide[:, 14:] = 1
    high[:5] = high[11:] = 1
    assert not painted(GEOMETRY, wide).any()
    assert not painted(GEOMETRY, high).any()
    wide[0, 6] = high[10, 7] = 1
    assert (~keep_of(GEOMETRY, mask=wide)).nonzero().tolist() == [[0, 0]]
    assert (~keep_of(GEOMETRY, mask=high)).nonzero().tolist() == [[0, 11]]


@pytest.mark.parametrize("shape", [(4,), (0, 4), (1, 1, 4, 4)])
def test_what_is_no_mask_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="A mask is a table") as refusal:
        keep_of(GEOMETRY, mask=torch.zeros(shape))
    check_sentence(refusal.value)


@st.composite
def cases(draw: st.DrawFn) -> tuple[TinyModel, Policy, Tensor, int]:
    """A model, a policy, a table of what two images keep, and a seed."""
    geometry = Geometry(1, 2, draw(st.sampled_from([1, 2])), 8, draw(st.integers(1, 4)), draw(st.integers(2, 4)), 20)
    ssd = SSD(1.0, refresh=1, head_map=random_map(geometry))
    policy = draw(st.sampled_from([Full(), Window(6), ssd]))
    bits = draw(st.lists(st.booleans(), min_size=2 * geometry.tokens, max_size=2 * geometry.tokens))
    return (
        TinyModel(geometry, seed=draw(st.integers(0, 9))),
        policy,
        torch.tensor(bits).view(2, -1),
        draw(st.integers(0, 99)),
    )


@settings(max_examples=25)
@given(case=cases())
def test_any_tokens_of_a_picture_kept_draw_it_again(case: tuple[TinyModel, Policy, Tensor, int]) -> None:
    model, policy, keep, seed = case
    given: dict[str, Any] = {**USUAL, "seed": seed}
    plain = generate(model, ["ab"], policy, **given).tokens
    start = plain.where(keep, UNDRAWN)
    rows: list[Tensor] = []

    def on_row(_: int, so_far: Tensor, *__: object) -> None:
        rows.append(so_far)

    again = generate(model, ["ab"], policy, start=start, keep=keep, on_row=on_row, **given)
    assert again.tokens.equal(plain)
    assert again.drawn == int((~keep).sum())
    assert all(so_far.equal(plain[:, : so_far.shape[1]]) for so_far in rows)
