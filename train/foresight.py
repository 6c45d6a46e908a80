"""What lies ahead in the picture, asked of the model at every token while it trains.

A caption rules a handful of a picture's 576 tokens, too few to teach a small model to read. So a linear head, thrown
away after training, must tell from a middle layer what object begins next: shape, colour and quadrant, how many are
still to begin, and the background. It makes every image token look into the caption; the layers above use what it
found.

It also asks for the token's row and column. Where an object may begin depends on them, but so rarely that a model
learns very late to count along a sequence that nothing divides into rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, GRID, NUMBERS, SHAPES, Scene, Thing

LAYER = 4  # how many of the layers the head sees
NOTHING = 0  # the class of shape, colour and quadrant where no object is left to begin
CLASSES = (1 + len(SHAPES), 1 + len(COLOURS), 1 + 4, 1 + max(NUMBERS.values()), len(BACKGROUNDS), GRID, GRID)
PLACES = 2  # the last of the questions: row and column


def targets(scene: Scene, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes of what is ahead at each token of a scene's codes [24, 24], itself included, and of where the token
    is: int64 [576, 7]."""
    ahead = np.full((GRID * GRID, len(CLASSES)), NOTHING)
    ahead[:, 4] = list(BACKGROUNDS).index(scene.background)
    ahead[:, 5], ahead[:, 6] = divmod(np.arange(GRID * GRID), GRID)
    for begin, thing in sorted(begins(scene, codes), key=lambda each: each[0], reverse=True):
        quadrant = 2 * (thing.top >= GRID // 2) + (thing.left >= GRID // 2)
        ahead[: begin + 1, :3] = 1 + SHAPES.index(thing.shape), 1 + list(COLOURS).index(thing.colour), 1 + quadrant
        ahead[: begin + 1, 3] += 1
    return ahead


def begins(scene: Scene, codes: NDArray[np.int64]) -> list[tuple[int, Thing]]:
    """The first token of each object."""
    found = []
    for thing in scene.things:
        own = codes[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size] >= len(BACKGROUNDS)
        row, column = divmod(int(own.argmax()), thing.size)
        found.append(((thing.top + row) * GRID + thing.left + column, thing))
    return found
