"""Heat colours in which equal steps of a number look like equal steps of colour."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# night blue, violet, rose, orange, cream: lightness, green to red, blue to yellow in OKLab (B. Ottosson, 2020)
ANCHORS = np.array(
    [[0.22, 0.01, -0.07], [0.40, 0.10, -0.12], [0.58, 0.17, 0.00], [0.76, 0.09, 0.11], [0.94, 0.00, 0.07]]
)
# OKLab to the cube roots of cone responses; these, cubed, to linear sRGB
TO_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def heat(value: float | npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.uint8]:
    """Numbers in 0..1, of any shape -> sRGB [..., 3]: dark is little, light is much.

    The colour walks through the anchors at constant speed, measured in OKLab, a space made so that equal distances look
    equal.
    """
    lengths = np.linalg.norm(np.diff(ANCHORS, axis=0), axis=1)
    places = np.concatenate([[0.0], lengths.cumsum()]) / lengths.sum()
    lab = np.stack([np.interp(np.asarray(value), places, channel) for channel in ANCHORS.T], -1)
    linear = ((lab @ TO_CONES.T) ** 3 @ TO_RGB.T).clip(0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(rgb * 255).round().astype(np.uint8)
