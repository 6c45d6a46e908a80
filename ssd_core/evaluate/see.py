"""See what a picture of the embedded model's world holds: its background, and each object's shape, colour and place.

Classical image analysis, no learned part: a pixel is explained as a mixture of the background and one colour, connected
pixels that are mostly colour are an object, and its outline is compared with each of the six shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..errors import UserError
from .scenes import BACKGROUNDS, COLOURS, SHAPES, SIZE, inside, mask_pixels

# Lengths are pixels of a picture brought to 96 x 96, colour distances Euclidean in RGB of 0..255.
GROUND_REACH = 40  # how far a pixel of the background may be from its colour; the three are at least 170 apart
GROUND_SHARE = 0.4  # of the picture; four of the largest squares leave 0.56
COLOUR_REACH = 60  # how far an object's colour may be from its name's; orange and yellow are the closest, 78 apart
COLOUR_SHARE = 0.75  # of an object's inner pixels that must be nearest to its colour
OFF_MIXTURE = 60  # a pixel this far from every mixture of the background and a colour is no soft edge
SPECK = 32  # area of two cells, a ninth of the smallest object
UPSAMPLE = 3  # outlines are compared on a grid this much finer
# Mean distance between an object's outline and its shape's, in sides of the shape. Drawn shapes come within 0.003, and
# within 0.012 after blur and noise or as picture codes draw them; a tilt of 10 degrees is 0.036 to 0.041, a tenth
# cut off 0.02 to 0.04, a fifth 0.035 to 0.06; random blobs have a median of 0.09, and the few that pass are round.
LIKENESS = 0.035


@dataclass(frozen=True)
class Seen:
    """One object of a picture; a shape or colour of no name is None. Lengths in pixels of a 96 x 96 picture."""

    shape: str | None
    colour: str | None
    x: float  # centre, to the right
    y: float  # centre, downwards
    size: float  # side of the square it fills


@dataclass(frozen=True)
class View:
    """What a picture holds. Without a background of the world nothing can be told apart from it: no objects then."""

    background: str | None
    things: tuple[Seen, ...]


def see(picture: ArrayLike) -> View:
    """What a picture holds: [H, H, 3], uint8 or float in 0..1, of any size. Raises UserError for anything else."""
    ndimage = require_scipy()
    pixels = _pixels(picture)
    name, ground = _background(pixels)
    if name is None:
        return View(None, ())
    coverage = _coverage(pixels, ground)
    labels, _ = ndimage.label(coverage >= 0.5, np.ones((3, 3)))
    things = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
        top, left = max(rows.start - 1, 0), max(columns.start - 1, 0)  # room for the outline between two pixels
        box = slice(top, rows.stop + 1), slice(left, columns.stop + 1)
        own = labels[box] == label
        if own.sum() < SPECK:
            continue
        shape, x, y, size = _shape(np.where(own | (labels[box] == 0), coverage[box], 0))
        things.append(Seen(shape, _colour(pixels[box], own), left + x, top + y, size))
    return View(name, tuple(things))


def require_scipy() -> ModuleType:
    """scipy.ndimage, which judging needs; raises UserError where it is not installed."""
    try:
        return import_module("scipy.ndimage")
    except ImportError:
        raise UserError("Scoring pictures needs scipy: pip install scipy.") from None


def _pixels(picture: ArrayLike) -> NDArray[np.float32]:
    """The picture at the size all lengths here are meant for: float32 [96, 96, 3] in 0..255."""
    given = np.asarray(picture)
    if given.ndim != 3 or given.shape[0] != given.shape[1] or given.shape[2] != 3 or given.size == 0:
        raise UserError(f"A picture must be square, [H, H, 3], not {list(given.shape)}.")
    if np.issubdtype(given.dtype, np.floating):
        if not (given.min() >= 0 and given.max() <= 1):
            raise UserError("A picture of floats must lie in 0..1; divide by 255 or clip it.")
        given = np.rint(given * 255).astype(np.uint8)
    if given.dtype != np.uint8:
        raise UserError(f"A picture must be uint8 or float in 0..1, not {given.dtype}.")
    if given.shape[0] != SIZE:
        given = np.asarray(Image.fromarray(given).resize((SIZE, SIZE), Image.Resampling.BOX))
    return given.astype(np.float32)


def _distances(pixels: NDArray[np.float32], names: dict[str, tuple[int, int, int]]) -> NDArray[np.float32]:
    """The distance of each pixel to each named colour: pixels [..., 3] -> float32 [..., names]."""
    offset = pixels[..., None, :] - np.array(list(names.values()), np.float32)
    return np.sqrt(np.einsum("...c,...c", offset, offset))


def _background(pixels: NDArray[np.float32]) -> tuple[str | None, NDArray[np.float32]]:
    """The name of the background that most pixels show, or None, and its colour as the picture has it: float32 [3]."""
    near = _distances(pixels, BACKGROUNDS) <= GROUND_REACH
    most = int(near.sum((0, 1)).argmax())
    if near[:, :, most].mean() < GROUND_SHARE:
        return None, np.zeros(3, np.float32)
    return list(BACKGROUNDS)[most], np.median(pixels[near[:, :, most]], axis=0)


def _coverage(pixels: NDArray[np.float32], ground: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of each pixel an object covers: float32 [96, 96] in 0..1.

    A pixel is taken as ground + a * (colour - ground), with the colour and the a in 0..1 that explain it best. One that
    no colour explains, like white on grey, is covered by something unknown.
    """
    offset = pixels - ground
    axes = np.array(list(COLOURS.values()), np.float32) - ground
    length = (axes**2).sum(-1)
    along = offset @ axes.T
    share = np.clip(along / length, 0, 1)  # [96, 96, 6]
    residual = np.einsum("...c,...c", offset, offset)[:, :, None] - 2 * share * along + share**2 * length
    best = residual.argmin(-1)[:, :, None]
    covered = np.take_along_axis(share, best, -1)[:, :, 0]
    return np.where(np.take_along_axis(residual, best, -1)[:, :, 0] > OFF_MIXTURE**2, 1, covered)


def _colour(pixels: NDArray[np.float32], own: NDArray[np.bool_]) -> str | None:
    """The colour of an object from its inner pixels: pixels [h, w, 3] and which are its own, [h, w]."""
    inner = require_scipy().binary_erosion(own, np.ones((3, 3)))
    shown = pixels[inner if inner.any() else own]
    typical = _distances(np.median(shown, axis=0), COLOURS)
    colour = int(typical.argmin())
    agreeing = _distances(shown, COLOURS).argmin(-1) == colour
    if typical[colour] > COLOUR_REACH or agreeing.mean() < COLOUR_SHARE:
        return None
    return list(COLOURS)[colour]


@dataclass(frozen=True)
class Template:
    """Measures of a shape whose square has side 1; all six are symmetric left to right."""

    area: float
    drop: float  # how far the centre of mass lies below the centre of the square
    outline: float  # length of the edge


@cache
def template(shape: str) -> Template:
    """The measures of a shape, from its mask."""
    n, border = 96, 2  # a border that wide keeps the gradient's one-sided ends off the edge
    covered = np.pad(mask_pixels(shape, n).astype(np.float64), border)
    down = (np.arange(n + 2 * border) - border + 0.5) / n - 0.5
    outline = np.hypot(*np.gradient(covered)).sum() / n  # the total variation of a mask is the length of its edge
    return Template(covered.sum() / n**2, (covered.sum(1) @ down) / covered.sum(), outline)


def _shape(coverage: NDArray[np.float32]) -> tuple[str | None, float, float, float]:
    """The shape an object looks like, or None, then x and y of its centre and its size. coverage: [h, w] in 0..1.

    Each shape is laid over the object with the same area and centre of mass, and the one that overlaps most is taken.
    Fitting bounding boxes instead would hang on single ragged cells and blurred tips, and let a stretched shape pass.
    What remains outside the overlap, divided by the length of the edge, is the distance between the outlines. Unlike
    the overlap itself it is as strict with a thin ring as with a full square.
    """
    fine = require_scipy().zoom(coverage, UPSAMPLE, order=1, mode="nearest", grid_mode=True) >= 0.5
    ys, xs = (np.stack(np.nonzero(fine)) + 0.5) / UPSAMPLE
    area = len(xs) / UPSAMPLE**2

    def lay(shape: str) -> tuple[float, str, float, float, float]:
        size = (area / template(shape).area) ** 0.5
        x, y = xs.mean(), ys.mean() - template(shape).drop * size
        overlap = inside(shape, (xs - x) * 2 / size, (ys - y) * 2 / size).mean()
        return overlap, shape, x, y, size

    overlap, shape, x, y, size = max(map(lay, SHAPES))
    distance = 2 * (1 - overlap) * template(shape).area / template(shape).outline
    return shape if distance <= LIKENESS else None, x, y, size
