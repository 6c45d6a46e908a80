"""What the picture shows already, asked of the model at every token while it trains.

What is still to be drawn is what the caption asks for without what is there. A layer that is to tell what lies ahead
(foresight.py) must find both ready, so the layers before it are asked how many objects have begun, and the shape and
colour of the one that began last.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ssd_core.evaluate.scenes import COLOURS, GRID, NUMBERS, SHAPES, Scene

from .foresight import NOTHING, begins

LAYER = 3  # how many of the layers the head sees
CLASSES = (1 + max(NUMBERS.values()), 1 + len(SHAPES), 1 + len(COLOURS))


def targets(scene: Scene, codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes of what began before each token of a scene's codes [24, 24]: int64 [576, 3]."""
    behind = np.full((GRID * GRID, len(CLASSES)), NOTHING)
    for begin, thing in sorted(begins(scene, codes), key=lambda each: each[0]):
        behind[begin + 1 :, 0] += 1
        behind[begin + 1 :, 1:] = 1 + SHAPES.index(thing.shape), 1 + list(COLOURS).index(thing.colour)
    return behind
