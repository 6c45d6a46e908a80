"""The picture codes against the pictures they stand for."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ssd_core.evaluate.scenes import BACKGROUNDS, CELL, COLOURS, GRID, SHAPES, Scene, Thing, render, sample
from train import codes

GROUNDS = np.array(list(BACKGROUNDS.values()), float)
PAINTS = np.array(list(COLOURS.values()), float)
FLAT = np.concatenate([GROUNDS, PAINTS])
USED = len(FLAT) + len(GROUNDS) * len(PAINTS) * codes.PATTERNS


def looks() -> NDArray[np.float64]:
    """How the used codes look: [495, 16, 3] in 0..255, background by background, colour by colour."""
    alpha = codes.patterns()[None, None, :, :, None]
    ground, paint = GROUNDS[:, None, None, None], PAINTS[None, :, None, None]
    edges = ground + alpha * (paint - ground)
    flat = np.repeat(FLAT[:, None], CELL * CELL, 1)
    return np.concatenate([flat, edges.reshape(-1, CELL * CELL, 3)])


def drawn(scenes: int = 150) -> Iterator[tuple[Scene, NDArray[np.int64], NDArray[np.float64]]]:
    """Scenes with their codes [576] and the pixels of each cell [576, 16, 3]."""
    rng = random.Random(7)
    for _ in range(scenes):
        scene = sample(rng)
        cells = render(scene).reshape(GRID, CELL, GRID, CELL, 3).swapaxes(1, 2)
        yield scene, codes.encode(scene).reshape(-1), cells.reshape(GRID * GRID, CELL * CELL, 3).astype(float)


def test_a_flat_cell_has_the_code_of_its_colour_and_no_other_cell_has_one() -> None:
    for _, code, cells in drawn():
        flat = (cells == cells[:, :1]).all((1, 2))
        assert np.array_equal(flat, code < len(FLAT))
        assert np.array_equal(cells[flat, 0], FLAT[code[flat]])


def test_an_edge_cell_has_the_code_that_looks_most_like_it() -> None:
    look = looks()
    for scene, code, cells in drawn():
        ground = list(BACKGROUNDS).index(scene.background)
        paints = {list(COLOURS).index(thing.colour) for thing in scene.things}
        blocks = [len(FLAT) + (ground * len(PAINTS) + paint) * codes.PATTERNS for paint in paints]
        usable = np.concatenate([np.arange(first, first + codes.PATTERNS) for first in blocks])
        edge = code >= len(FLAT)
        assert np.isin(code[edge], usable).all()
        for first in blocks:
            here = edge & (code >= first) & (code < first + codes.PATTERNS)
            block = np.arange(first, first + codes.PATTERNS)
            distance = ((cells[here][:, None] - look[block]) ** 2).sum((2, 3))
            own = distance[np.arange(here.sum()), code[here] - first]
            assert (own <= distance.min(1) + 100).all()  # the renderer rounds, so near ties may fall either way


def test_a_code_depends_on_its_own_cell_alone() -> None:
    known: dict[bytes, int] = {}
    for _, code, cells in drawn():
        for one, pixels in zip(code.tolist(), cells, strict=True):
            assert known.setdefault(pixels.tobytes(), one) == one


def test_the_codes_hold_the_picture() -> None:
    look = looks()
    squared = [((look[code] - cells) ** 2).mean() / 255**2 for _, code, cells in drawn()]
    assert -10 * np.log10(np.mean(squared)) > 35


def test_codes_move_with_their_object() -> None:
    for shape in SHAPES:
        at = codes.encode(Scene("", "", "grey", (Thing(shape, "red", 2, 3, 8),)))
        moved = codes.encode(Scene("", "", "grey", (Thing(shape, "red", 11, 9, 8),)))
        assert np.array_equal(at[2:10, 3:11], moved[11:19, 9:17])
        assert (at != at[0, 0]).sum() == (moved != moved[0, 0]).sum() > 0


def test_embeddings_are_distinct_unit_vectors_alike_where_cells_look_alike() -> None:
    vectors, look = codes.embeddings(8), looks().reshape(USED, -1)
    assert vectors.shape == (codes.CODEBOOK, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert len(np.unique(vectors.round(6), axis=0)) == codes.CODEBOOK
    cosine = vectors[:USED] @ vectors[:USED].T
    np.fill_diagonal(cosine, -1)
    nearest = ((look - look[cosine.argmax(1)]) ** 2).mean(1)
    any_two = ((look - look[::-1]) ** 2).mean(1)
    assert np.median(nearest) < np.median(any_two) / 10
