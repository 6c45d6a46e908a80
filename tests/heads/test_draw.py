"""The picture of a head map: the squares, the dots and the words."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssd_core import UserError
from ssd_core.heads import HeadMap, draw
from ssd_core.heads.colours import heat
from ssd_core.heads.draw import words
from ssd_core.heads.page import INK, PAPER, length, wrapped

ABOUT = {"model": "tiny", "source": "measured", "prompts": "3", "neighbourhood": "6", "head_dim": "8"}


def squares_of(head_map: HeadMap, tau: float, cell: int) -> np.ndarray:
    """The picture's squares, [layers, heads, cell, cell, 3], found by the corner of the first."""
    picture = np.asarray(draw(head_map, tau))
    layers, heads = head_map.share.shape
    corner = (picture == heat(float(head_map.share[0, 0]))).all(-1).nonzero()
    top, left = corner[0].min(), corner[1].min()
    grid = picture[top : top + layers * cell, left : left + heads * cell]
    return grid.reshape(layers, cell, heads, cell, 3).swapaxes(1, 2)


@pytest.mark.parametrize(("layers", "heads", "cell"), [(6, 6, 52), (24, 16, 28), (30, 32, 21)])
def test_each_head_is_a_square_of_its_colour_with_a_dot_if_it_is_semantic(layers: int, heads: int, cell: int) -> None:
    share = torch.rand(layers, heads, generator=torch.Generator().manual_seed(0))
    share[1, 2] = 0.3  # in float32 a little more than Python's, but not above tau
    squares = squares_of(HeadMap(share), 0.3, cell)
    np.testing.assert_array_equal(squares[:, :, 2, 2], heat(share.numpy()))
    middle = squares[:, :, (cell - 1) // 2, (cell - 1) // 2]
    np.testing.assert_array_equal((middle == PAPER).all(-1), (share > 0.3).numpy())


def test_dots_show_on_the_lightest_and_the_darkest_squares() -> None:
    for share in (0.0, 1.0):
        squares = squares_of(HeadMap(torch.tensor([[share, 0.5]]).clamp(min=1e-3)), 0.0, 52)
        across = squares[0, 0, 26].astype(int)
        contrast = np.abs(across - heat(share).astype(int)).max()
        assert contrast > 150, f"no dot to be seen at {share}"


@pytest.mark.parametrize("tau", [0.1, 0.6])
def test_the_scale_marks_tau(tau: float) -> None:
    """The mark is the only thing that is ink across the whole scale."""
    picture = np.asarray(draw(HeadMap(torch.full((6, 6), 0.5)), tau))
    scale_top, scale_bottom = (find_row(picture, value) for value in (1.0, 0.0))
    scale_left = (picture[scale_bottom] == heat(0.0)).all(-1).nonzero()[0].min()
    ink = (picture[scale_top : scale_bottom + 1, scale_left : scale_left + 16] == INK).all((-1, -2)).nonzero()[0]
    assert 1 - ink.mean() / (scale_bottom - scale_top) == pytest.approx(tau, abs=0.01)


def find_row(picture: np.ndarray, value: float) -> int:
    return int((picture == heat(value)).all(-1).any(1).nonzero()[0][0])


def test_the_words_say_how_many_where_from_and_where_the_border_lies() -> None:
    share = torch.tensor([[0.1, 0.3, 0.5, 0.9]])
    title, *notes = words(HeadMap(share, ABOUT), 0.3)
    assert title == "tiny: 50% of 4 heads are semantic"
    assert "tau = 0.3" in notes[1]
    assert notes[2] == "Source: measured (prompts: 3; neighbourhood: 6)."
    assert words(HeadMap(share, {"source": "read off"}), 0.3)[-1] == "Source: read off."


def test_a_map_that_says_nothing_about_itself_is_drawn_all_the_same() -> None:
    assert words(HeadMap(torch.zeros(1, 2)), 0.3)[0] == "0% of 2 heads are semantic"
    assert draw(HeadMap(torch.zeros(1, 2)), 0.3).mode == "RGB"


def test_long_words_stay_on_the_sheet() -> None:
    long = HeadMap(torch.zeros(2, 2), {"model": "a-very-long-name-of-a-model " * 3, "source": "some words " * 30})
    border = np.asarray(draw(long, 0.3))
    for edge in (border[:8], border[-8:], border[:, :8], border[:, -8:]):
        assert (edge == PAPER).all()


def test_notes_are_broken_between_words_where_they_get_too_wide() -> None:
    lines = wrapped("one two three four five", 60)
    assert " ".join(lines) == "one two three four five"
    assert len(lines) > 1
    assert max(length(line, 13) for line in lines) <= 60


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(UserError, match="tau"):
        draw(HeadMap(torch.zeros(1, 2)), 1.5)
