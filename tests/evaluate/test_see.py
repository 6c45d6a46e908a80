import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from math import pi, sqrt

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from ssd_core.errors import UserError
from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scene, Thing, mask_pixels, render, sample
from ssd_core.evaluate.see import Template, View, see, template

CENTRE = np.arange(SIZE) + 0.5
X, Y = CENTRE[None, :] - SIZE / 2, CENTRE[:, None] - SIZE / 2


def paint(covered: NDArray[np.float64], colour: str = "blue", background: str = "white") -> NDArray[np.uint8]:
    ground = np.array(BACKGROUNDS[background], float)
    return np.rint(ground + covered[:, :, None] * (np.array(COLOURS[colour]) - ground)).astype(np.uint8)


def square(top: int, left: int, side: int) -> NDArray[np.float64]:
    covered = np.zeros((SIZE, SIZE))
    covered[top : top + side, left : left + side] = 1
    return covered


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_every_object_is_seen_where_it_is(shape: str, background: str) -> None:
    for colour in COLOURS:
        for size in (6, 8, 10, 12):
            scene = Scene("colours", "", background, (Thing(shape, colour, 3, 11, size),))
            view = see(render(scene))
            assert view.background == background
            (seen,) = view.things
            assert (seen.shape, seen.colour) == (shape, colour)
            assert seen.x == pytest.approx((11 + size / 2) * 4, abs=0.5)
            assert seen.y == pytest.approx((3 + size / 2) * 4, abs=0.5)
            assert seen.size == pytest.approx(size * 4, abs=1)


def test_templates_are_the_geometry_of_the_shapes() -> None:
    exact = {
        "circle": Template(pi / 4, 0, pi),
        "square": Template(1, 0, 4),
        "triangle": Template(1 / 2, 1 / 6, 1 + sqrt(5)),
        "diamond": Template(1 / 2, 0, 2 * sqrt(2)),
        "cross": Template(5 / 9, 0, 4),
        "ring": Template(0.7 * pi / 4, 0, (1 + sqrt(0.3)) * pi),
    }
    for shape in SHAPES:
        assert astuple(template(shape)) == pytest.approx(astuple(exact[shape]), rel=0.02, abs=1e-3)


def gist(picture: NDArray[np.generic]) -> tuple[str | None, Counter[tuple[str | None, str | None]]]:
    view = see(picture)
    return view.background, Counter((seen.shape, seen.colour) for seen in view.things)


@pytest.mark.parametrize("side", [64, 100, 384])
def test_size_and_number_format_do_not_matter(side: int) -> None:
    rng = random.Random(0)
    for _ in range(20):
        picture = render(sample(rng))
        resized = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        assert gist((resized / 255).astype(np.float32)) == gist(picture)


def test_places_are_those_of_a_96_pixel_picture() -> None:
    covered = np.repeat(np.repeat(square(8, 20, 32), 4, 0), 4, 1)
    (seen,) = see(paint(covered)).things
    assert (seen.x, seen.y, seen.size) == pytest.approx((36, 24, 32), abs=0.1)


def half_circle() -> NDArray[np.generic]:
    return (X**2 + Y**2 <= 20**2) & (X < 3)


def ellipse() -> NDArray[np.generic]:
    return (X / 1.3) ** 2 + (Y * 1.3) ** 2 <= 20**2


def triangle_pointing_down() -> NDArray[np.generic]:
    return np.pad(mask_pixels("triangle", 40)[::-1], 28)


def tilted_cross() -> NDArray[np.floating]:
    a, b = abs(X + Y), abs(X - Y)
    return (np.minimum(a, b) < 9) & (np.maximum(a, b) < 27)


def star() -> NDArray[np.generic]:
    return np.hypot(X, Y) < 18 * (1 + 0.35 * np.cos(5 * np.arctan2(Y, X)))


def gapped_ring() -> NDArray[np.generic]:
    return np.pad(mask_pixels("ring", 40), 28) * ((abs(Y) > 5) | (X < 0))


@pytest.mark.parametrize("draw", [half_circle, ellipse, triangle_pointing_down, tilted_cross, star, gapped_ring])
def test_what_is_none_of_the_shapes_has_none(draw: Callable[[], NDArray[np.generic]]) -> None:
    (seen,) = see(paint(draw().astype(np.float64))).things
    assert (seen.shape, seen.colour) == (None, "blue")


def test_merged_objects_are_one_thing_of_no_shape() -> None:
    (seen,) = see(paint(np.maximum(square(20, 16, 24), square(26, 38, 24)))).things
    assert seen.shape is None


def test_close_objects_stay_two_when_blurred() -> None:
    pair = np.maximum(square(20, 16, 24), square(20, 44, 24))
    things = see(paint(gaussian_filter(pair, 1.5))).things
    assert [seen.shape for seen in things] == ["square", "square"]


def test_a_speck_is_no_object_and_a_patch_is_one() -> None:
    assert see(paint(square(40, 40, 4))).things == ()
    assert len(see(paint(square(40, 40, 8))).things) == 1


def test_an_object_of_two_colours_has_none() -> None:
    picture = paint(square(32, 32, 32), "red")
    picture[32:44, 32:64] = COLOURS["blue"]
    (seen,) = see(picture).things
    assert (seen.shape, seen.colour) == ("square", None)


def test_an_object_of_no_known_colour_has_none() -> None:
    picture = paint(square(32, 32, 32), background="grey")
    picture[32:64, 32:64] = (250, 250, 250)  # explained by no mixture of grey and a colour
    (seen,) = see(picture).things
    assert (seen.shape, seen.colour) == ("square", None)


def test_a_second_background_is_an_object() -> None:
    picture = paint(square(8, 8, 24))
    picture[:, 56:] = BACKGROUNDS["black"]
    assert len(see(picture).things) == 2


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_an_empty_picture_has_a_background(background: str) -> None:
    assert see(paint(np.zeros((SIZE, SIZE)), background=background)) == View(background, ())


def test_without_a_background_nothing_is_seen() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    assert see(noise) == View(None, ())
    assert see(np.broadcast_to(np.array(COLOURS["red"], np.uint8), (SIZE, SIZE, 3))) == View(None, ())


def test_a_tinted_picture_reads_the_same() -> None:
    rng = random.Random(1)
    for _ in range(20):
        picture = render(sample(rng))
        assert gist((picture * 0.93 + 8).astype(np.uint8)) == gist(picture)


def test_a_drifted_background_moves_no_outline() -> None:
    covered = gaussian_filter(square(32, 32, 32), 1)[:, :, None]
    drifted = np.array(BACKGROUNDS["grey"]) - (0, 35, 0)  # towards purple
    (seen,) = see((drifted + covered * (np.array(COLOURS["purple"]) - drifted)).astype(np.uint8)).things
    assert seen.shape == "square"
    assert seen.size == pytest.approx(32, abs=0.5)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((96, 64, 3), np.uint8), "must be square"),
        (np.zeros((96, 96), np.uint8), "must be square"),
        (np.zeros((96, 96, 4), np.uint8), "must be square"),
        (np.full((96, 96, 3), 255.0), "must lie in 0..1"),
        (np.full((96, 96, 3), -0.1), "must lie in 0..1"),
        (np.full((96, 96, 3), np.nan), "must lie in 0..1"),
        (np.zeros((96, 96, 3), np.int64), "must be uint8 or float"),
    ],
)
def test_other_arrays_are_refused(picture: NDArray[np.generic], message: str) -> None:
    with pytest.raises(UserError, match=message):
        see(picture)


def test_a_missing_scipy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(UserError, match="pip install scipy"):
        see(paint(square(32, 32, 32)))
