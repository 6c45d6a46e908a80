"""The picture codes of the embedded model: every 4x4-pixel cell of a picture becomes one of 512 codes.

A cell shows a background, or one of its colours partly or wholly covered by an object's colour. So a code is a
background, a colour, or a (background, colour, edge pattern) triple, where the edge patterns are k-means centres of all
coverage patterns that occur. A code depends on its own cell alone, which a convolutional encoder's codes never do: the
sequence model need not learn an encoder's noise, and the codebook cannot collapse. The encoder of the shipped VQ model
is then taught to name these codes, and its decoder to draw the picture from them (pictures.py).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from ssd_core.evaluate.scenes import BACKGROUNDS, CELL, COLOURS, GRID, SHAPES, SIZES_ALONE, SIZES_AMONG, Scene, mask

CODEBOOK = 512
PATTERNS = 27  # per pair of background and colour; 3 + 6 + 3 * 6 * 27 = 495 codes are in use


def cells_of(shape: str, size: int) -> NDArray[np.float32]:
    """Coverage of a shape cut into cells: float32 [size, size, 16]."""
    alpha = mask(shape, size)
    return alpha.reshape(size, CELL, size, CELL).transpose(0, 2, 1, 3).reshape(size, size, CELL * CELL)


@cache
def patterns() -> NDArray[np.float32]:
    """The edge patterns: float32 [27, 16], coverage of each pixel of a cell in 0..1."""
    sizes = sorted({*SIZES_ALONE, *SIZES_AMONG})
    every = np.concatenate([cells_of(shape, size).reshape(-1, CELL * CELL) for shape in SHAPES for size in sizes])
    partial = every[(every.sum(1) > 0) & (every.sum(1) < CELL * CELL)]
    centres, _ = kmeans2(np.unique(partial, axis=0), PATTERNS, minit="++", seed=1, iter=100)
    return centres.astype(np.float32)


@cache
def pattern_of(shape: str, size: int) -> NDArray[np.int64]:
    """The pattern of each cell of a shape: int64 [size, size]; 0 = empty, 1 = full, 2 + k = edge pattern k."""
    cells = cells_of(shape, size)
    distance = ((cells[:, :, None, :] - patterns()) ** 2).sum(-1)
    kind = 2 + distance.argmin(-1)
    kind[cells.sum(-1) == 0] = 0
    kind[cells.sum(-1) == CELL * CELL] = 1
    return kind


def encode(scene: Scene) -> NDArray[np.int64]:
    """The codes of a scene, row by row: int64 [24, 24]."""
    ground = list(BACKGROUNDS).index(scene.background)
    codes = np.full((GRID, GRID), ground, np.int64)
    for thing in scene.things:
        colour = list(COLOURS).index(thing.colour)
        first = len(BACKGROUNDS) + len(COLOURS) + (ground * len(COLOURS) + colour) * PATTERNS
        kind = pattern_of(thing.shape, thing.size)
        code = np.where(kind == 0, ground, np.where(kind == 1, len(BACKGROUNDS) + colour, first + kind - 2))
        codes[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size] = code
    return codes


def embeddings(dimensions: int) -> NDArray[np.float32]:
    """Vectors to start the codebook from: float32 [512, dimensions], unit length, alike where the cells look alike."""
    pixels = np.zeros((CODEBOOK, CELL * CELL, 3), np.float32)
    grounds = np.array(list(BACKGROUNDS.values()), np.float32)
    colours = np.array(list(COLOURS.values()), np.float32)
    pixels[: len(grounds)] = grounds[:, None]
    pixels[len(grounds) : len(grounds) + len(colours)] = colours[:, None]
    alpha = patterns()[:, :, None]
    first = len(grounds) + len(colours)
    for ground in grounds:
        for colour in colours:
            pixels[first : first + PATTERNS] = ground + alpha * (colour - ground)
            first += PATTERNS
    flat = pixels.reshape(CODEBOOK, -1) / 255
    flat -= flat[:first].mean(0)
    _, _, axes = np.linalg.svd(flat[:first], full_matrices=False)
    vectors = flat @ axes[: dimensions - 1].T
    vectors = np.concatenate([vectors, np.full((CODEBOOK, 1), vectors.std() * 2)], 1)
    vectors[first:] += np.random.default_rng(0).normal(0, 0.5, vectors[first:].shape)  # the codes not in use
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
