from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ssd_core.heads.page import PAPER
from ssd_core.sheet import GAP, SIDE, contact_sheet


def picture(seed: int, width: int = 8, height: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def places(sheet: Image.Image, part: Image.Image) -> list[tuple[int, int]]:
    """Where on the sheet a picture lies, pixel by pixel: (left, top)."""
    whole, pixels = np.asarray(sheet), np.asarray(part)
    rows, columns = pixels.shape[:2]
    starts = np.argwhere((whole == pixels[0, 0]).all(-1))
    return [(x, y) for y, x in starts.tolist() if np.array_equal(whole[y : y + rows, x : x + columns], pixels)]


def test_every_picture_lies_once_in_its_row_and_column() -> None:
    pictures = [[picture(10 * row + column, 200, 200) for column in range(3)] for row in range(2)]
    sheet = contact_sheet(["full", "window", "ssd"], ["a red circle", "a ring"], pictures)
    found = [[places(sheet, one) for one in row] for row in pictures]
    assert all(len(place) == 1 for row in found for place in row)
    lefts = [[place[0][0] for place in row] for row in found]
    tops = [[place[0][1] for place in row] for row in found]
    assert lefts[0] == lefts[1] == sorted(set(lefts[0]))
    assert [set(row) for row in tops] == [{tops[0][0]}, {tops[1][0]}]
    assert tops[0][0] < tops[1][0]


@pytest.mark.parametrize(("side", "factor"), [(8, 24), (96, 2), (192, 1), (384, 1)])
def test_small_pictures_are_enlarged_by_a_whole_factor(side: int, factor: int) -> None:
    one = picture(1, side, side)
    enlarged = Image.fromarray(np.asarray(one).repeat(factor, 0).repeat(factor, 1))
    assert len(places(contact_sheet(["full"], ["a ring"], [[one]]), enlarged)) == 1


def test_pictures_need_not_be_square() -> None:
    one = picture(1, 200, 300)
    assert len(places(contact_sheet(["full"], ["a ring"], [[one]]), one)) == 1


def inked(sheet: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return bool((np.asarray(sheet.crop(box)) != PAPER).any())


def test_words_stand_above_the_columns_and_beside_the_rows() -> None:
    one = picture(1, 200, 200)
    sheet = contact_sheet(["full", ""], ["a ring", ""], [[one, one], [one, one]])
    (left, top), (right, _), (_, second), _ = places(sheet, one)
    assert inked(sheet, (left, 0, left + 200, top - 1))
    assert not inked(sheet, (right, 0, right + 200, top - 1))
    assert inked(sheet, (0, top, GAP + SIDE, second))
    assert not inked(sheet, (0, second, GAP + SIDE, sheet.height))


def test_long_words_make_room_and_stay_off_the_pictures() -> None:
    one = picture(1, 200, 200)
    plain = contact_sheet(["full"], ["a ring"], [[one]])
    tall = contact_sheet(["full cache " * 20], ["a ring left of a square " * 20], [[one]])
    assert tall.height > plain.height
    assert len(places(tall, one)) == 1


def test_a_label_keeps_its_own_lines() -> None:
    one = picture(1, 200, 200)
    heights = [contact_sheet([label], ["a ring"], [[one]]).height for label in ("ssd 1", "ssd\n1")]
    assert heights[0] < heights[1]
