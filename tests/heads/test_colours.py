"""The heat colours: even to the eye, from dark to light."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from skimage.color import rgb2lab

from ssd_core.heads.colours import ANCHORS, TO_CONES, TO_RGB, heat


def oklab(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """sRGB back to OKLab."""
    part = rgb / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return np.asarray(np.cbrt(linear @ np.linalg.inv(TO_RGB).T) @ np.linalg.inv(TO_CONES).T)


def test_colours_lie_where_oklab_has_them() -> None:
    """White and the primaries, as B. Ottosson's reference code gives them."""
    rgb = np.array([[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    expected = [[1.0, 0.0, 0.0], [0.6280, 0.2249, 0.1258], [0.8664, -0.2339, 0.1795], [0.4520, -0.0325, -0.3115]]
    np.testing.assert_allclose(oklab(rgb), expected, atol=1e-4)


def test_the_anchors_are_colours_a_screen_can_show() -> None:
    np.testing.assert_allclose(oklab(heat(np.array([0.0, 1.0]))), ANCHORS[[0, -1]], atol=0.01)
    distance = np.linalg.norm(oklab(heat(np.linspace(0, 1, 2001)))[:, None] - ANCHORS, axis=-1)
    assert distance.min(0).max() < 0.01


def test_equal_steps_look_equal() -> None:
    steps = np.linalg.norm(np.diff(oklab(heat(np.linspace(0, 1, 9))), axis=0), axis=1)
    assert steps.max() / steps.min() < 1.08


def test_more_is_lighter_also_to_another_measure() -> None:
    lightness = rgb2lab(heat(np.linspace(0, 1, 101)))[:, 0]
    assert (np.diff(lightness) > 0).all()
    assert lightness[-1] - lightness[0] > 75


def test_any_shape_of_numbers_gives_colours() -> None:
    assert heat(np.zeros((2, 3))).shape == (2, 3, 3)
    assert heat(0.5).dtype == np.uint8
