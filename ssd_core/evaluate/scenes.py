"""Scenes of coloured shapes: what a picture of the embedded model's world holds, its caption, and how it looks.

Six tasks, after GenEval (arXiv 2310.11513): one object, two objects, counting, colours, position, colour per object.
The same scenes train the embedded model and are the truth ShapesEval's scorer is tested on.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

GRID = 24  # cells along each side of a picture; one image token is one cell
CELL = 4  # pixels along each side of a cell
SIZE = GRID * CELL  # pixels along each side of a picture

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (245, 140, 20),
    "yellow": (250, 215, 40),
    "green": (35, 150, 70),
    "blue": (40, 85, 205),
    "purple": (140, 60, 170),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 248),
    "grey": (150, 152, 156),
    "black": (24, 24, 28),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
PLURAL = {shape: shape + "s" for shape in SHAPES} | {"cross": "crosses"}
NUMBERS = {"two": 2, "three": 3, "four": 4}
RELATIONS = ("left of", "right of", "above", "below")
FORWARD = ("left of", "above")  # the relations that name the left or upper object first
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TASKS = ("single", "two", "counting", "colours", "position", "attributes")

SIZES_ALONE = (8, 10, 12)  # cells; a picture with one object
SIZES_AMONG = (6, 8)  # cells; a picture with several, each in its own quadrant
# Objects stand in a few places only. Were any cell as good as the next, where one begins would be so much chance that a
# small model takes very long to learn where none may begin any more.
STEPS_ALONE = (-4, 0, 4)  # cells from the middle, down and across
# For the same reason two objects come in reading order: the one named first, or the upper or left one where the caption
# says how they stand, has its top edge no lower than the other's.


@dataclass(frozen=True)
class Thing:
    """One object: what it is, its colour, and the cells it covers (top, left, and side of its square)."""

    shape: str
    colour: str
    top: int
    left: int
    size: int


@dataclass(frozen=True)
class Scene:
    """A picture's content: the task its caption comes from, the words of the caption, its background and objects."""

    task: str
    caption: str
    background: str
    things: tuple[Thing, ...]


@cache
def mask(shape: str, cells: int) -> NDArray[np.float32]:
    """How much of each pixel a shape covers: float32 [cells * 4, cells * 4] in 0..1, anti-aliased."""
    return mask_pixels(shape, cells * CELL)


def mask_pixels(shape: str, pixels: int, oversample: int = 8) -> NDArray[np.float32]:
    """The coverage of a shape that fills a square of `pixels` by `pixels`: float32 [pixels, pixels] in 0..1."""
    n = pixels * oversample
    centre = (np.arange(n) + 0.5) / n * 2 - 1  # -1..1 over the square
    covered = inside(shape, centre[None, :], centre[:, None]).astype(np.float32)
    return covered.reshape(pixels, oversample, pixels, oversample).mean((1, 3))


def inside(shape: str, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie in a shape that fills the square -1..1, y downwards: bool [...] of x and y broadcast."""
    part: NDArray[np.bool_] = {
        "circle": lambda: x**2 + y**2 <= 1,
        "square": lambda: abs(x) <= 1,
        "triangle": lambda: abs(x) <= (y + 1) / 2,
        "diamond": lambda: abs(x) + abs(y) <= 1,
        "cross": lambda: (abs(x) <= 1 / 3) | (abs(y) <= 1 / 3),
        "ring": lambda: (x**2 + y**2 <= 1) & (x**2 + y**2 >= 0.3),
    }[shape]()
    return (abs(x) <= 1) & (abs(y) <= 1) & part


def render(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene: uint8 [96, 96, 3]."""
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        top, left, side = thing.top * CELL, thing.left * CELL, thing.size * CELL
        alpha = mask(thing.shape, thing.size)[:, :, None]
        part = picture[top : top + side, left : left + side]
        part += alpha * (np.array(COLOURS[thing.colour], np.float32) - part)
    return np.rint(picture).astype(np.uint8)


def article(word: str) -> str:
    return ("an " if word[0] in "aeiou" else "a ") + word


def held_out(task: str, key: tuple[str, ...]) -> bool:
    """Whether a combination is kept for evaluation, the same ones on every machine: about one in eight, and one in four
    of a single shape and its background, which are few."""
    digest = hashlib.sha256("|".join((task, *key)).encode()).digest()
    return digest[0] < (64 if task == "single" else 32)


def sample(rng: random.Random, *, evaluation: bool = False, task: str | None = None) -> Scene:
    """Draw a scene at random; `evaluation` chooses between the combinations kept for evaluation and all the others."""
    while True:
        scene, key = _propose(rng, task or rng.choice(TASKS))
        if held_out(scene.task, key) == evaluation:
            return scene


def _propose(rng: random.Random, task: str) -> tuple[Scene, tuple[str, ...]]:
    background = rng.choice(tuple(BACKGROUNDS))
    said = rng.random() < 0.5  # whether the caption names the background
    a, b = rng.choice(SHAPES), rng.choice(SHAPES)
    colour_a, colour_b = rng.choice(tuple(COLOURS)), rng.choice(tuple(COLOURS))
    places = [(row, column) for row in (0, 1) for column in (0, 1)]  # the four quadrants

    def among(shape: str, colour: str, place: tuple[int, int], size: int) -> Thing:
        room = GRID // 2 - size  # at least one free cell stays between neighbouring quadrants
        top, left = (GRID // 2 * half + rng.choice((1, room - 1)) for half in place)
        return Thing(shape, colour, top, left, size)

    def in_order(near: tuple[str, str], far: tuple[str, str], *pair: tuple[int, int]) -> list[Thing]:
        while True:
            things = [among(*what, at, rng.choice(SIZES_AMONG)) for what, at in zip((near, far), pair, strict=True)]
            if things[0].top <= things[1].top:
                return things

    if task in ("single", "colours"):
        size = rng.choice(SIZES_ALONE)
        top, left = ((GRID - size) // 2 + rng.choice(STEPS_ALONE) for _ in range(2))
        things = [Thing(a, colour_a, top, left, size)]
        words = article(a) if task == "single" else article(f"{colour_a} {a}")
        key: tuple[str, ...] = (a, background if said else "") if task == "single" else (a, colour_a)
    elif task == "counting":
        word, count = rng.choice(tuple(NUMBERS.items()))
        size = rng.choice(SIZES_AMONG)
        things = [among(a, colour_a, place, size) for place in rng.sample(places, count)]
        coloured = rng.random() < 0.5
        words = f"{word} {colour_a} {PLURAL[a]}" if coloured else f"{word} {PLURAL[a]}"
        key = (word, a, colour_a if coloured else "")
    elif task in ("two", "attributes"):
        things = in_order((a, colour_a), (b, colour_b), *sorted(rng.sample(places, 2)))
        if task == "two":
            words, key = f"{article(a)} and {article(b)}", tuple(sorted((a, b)))
        else:
            words = f"{article(f'{colour_a} {a}')} and {article(f'{colour_b} {b}')}"
            key = tuple(sorted((f"{colour_a} {a}", f"{colour_b} {b}")))
    else:
        relation = rng.choice(RELATIONS)
        forward = relation in FORWARD
        ends = ((a, colour_a), (b, colour_b)) if forward else ((b, colour_b), (a, colour_a))
        near, far = rng.choice([(0, 0), (0, 0), (1, 1), (1, 1), (0, 1), (1, 0)])
        if relation in ("left of", "right of"):
            things = in_order(*ends, (min(near, far), 0), (max(near, far), 1))
        else:
            things = in_order(*ends, (0, near), (1, far))
        things = things if forward else things[::-1]  # as the caption names them
        coloured = rng.random() < 0.25
        name_a = article(f"{colour_a} {a}" if coloured else a)
        name_b = article(f"{colour_b} {b}" if coloured else b)
        words, key = f"{name_a} {relation} {name_b}", (a, relation, b) if forward else (b, OPPOSITE[relation], a)
    caption = f"{words} on {article(background)} background" if said else words
    return Scene(task, caption, background, tuple(things)), key
