"""Pictures with known codes, to train the picture codec on: scenes, and clutter.

A decoder that has seen only true scenes may fail on the codes of an imperfect model. In clutter any number of objects
lie anywhere, one over the other or cut by the border, and stray cells come from elsewhere; each cell still looks as its
code says.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from ssd_core.evaluate.scenes import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    GRID,
    SHAPES,
    SIZES_ALONE,
    SIZES_AMONG,
    Scene,
    Thing,
    render,
    sample,
)

from . import codes

SIZES = tuple(sorted({*SIZES_ALONE, *SIZES_AMONG}))
SCENES = 0.5  # share of true scenes
CROWD = 8  # objects in clutter, at most
STRAY = 0.05  # share of stray cells in clutter, at most

Canvas = tuple[NDArray[np.int64], NDArray[np.uint8]]  # codes [rows, columns], pixels [rows, columns, 4, 4, 3]


def of_scene(scene: Scene) -> Canvas:
    pixels = render(scene).reshape(GRID, CELL, GRID, CELL, 3).swapaxes(1, 2)
    return codes.encode(scene), pixels


@cache
def stamp(shape: str, colour: str, size: int, background: str) -> Canvas:
    """One object alone, cut out: codes [size, size], pixels [size, size, 4, 4, 3]."""
    code, pixels = of_scene(Scene("", "", background, (Thing(shape, colour, 0, 0, size),)))
    return code[:size, :size], pixels[:size, :size]


def clutter(rng: random.Random) -> Canvas:
    """A canvas with objects anywhere, also over each other and over the border."""
    background = rng.choice(tuple(BACKGROUNDS))
    code, pixels = of_scene(Scene("", "", background, ()))
    ground = code[0, 0]
    for _ in range(rng.randint(0, CROWD)):
        size = rng.choice(SIZES)
        part, look = stamp(rng.choice(SHAPES), rng.choice(tuple(COLOURS)), size, background)
        top, left = rng.randint(1 - size, GRID - 1), rng.randint(1 - size, GRID - 1)
        rows, columns = slice(max(top, 0), top + size), slice(max(left, 0), left + size)
        inside = (slice(max(-top, 0), GRID - top), slice(max(-left, 0), GRID - left))
        covered = part[inside] != ground
        code[rows, columns][covered] = part[inside][covered]
        pixels[rows, columns][covered] = look[inside][covered]
    return code, pixels


def canvas(rng: random.Random) -> Canvas:
    """A scene, clutter, or clutter with stray cells."""
    if rng.random() < SCENES:
        return of_scene(sample(rng))
    code, pixels = clutter(rng)
    if rng.random() < 0.5:
        other, look = clutter(rng)
        stray = np.random.default_rng(rng.getrandbits(32)).random(code.shape) < rng.uniform(0, STRAY)
        code[stray], pixels[stray] = other[stray], look[stray]
    return code, pixels


def batch(step: int, count: int, side: int = GRID) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch of a step, the same whenever it is asked for: square windows of `side` cells cut from canvases. Codes
    int64 [B, side, side], pixels float32 [B, 3, side * 4, side * 4] in -1..1 (channels last)."""
    rng = random.Random(step)
    windows = []
    for _ in range(count):
        code, pixels = canvas(rng)
        top, left = rng.randint(0, GRID - side), rng.randint(0, GRID - side)
        window = slice(top, top + side), slice(left, left + side)
        windows.append((code[window], pixels[window]))
    return as_tensors(windows)


def as_tensors(canvases: list[Canvas]) -> tuple[torch.Tensor, torch.Tensor]:
    """Canvases of one size as `batch` returns them."""
    code, pixels = zip(*canvases, strict=True)
    pictures = torch.from_numpy(np.stack(pixels)).permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
    pictures = pictures.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)
    return torch.from_numpy(np.stack(code)), pictures


def held_out(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scenes of the combinations kept for evaluation, as `batch` returns them."""
    rng = random.Random("held out")
    return as_tensors([of_scene(sample(rng, evaluation=True)) for _ in range(count)])
