"""What lies ahead of each token, against a picture read token by token."""

from __future__ import annotations

import random

from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, sample
from train import codes, foresight


def test_targets_name_the_object_whose_first_cell_comes_next() -> None:
    rng = random.Random(3)
    for scene in (sample(rng) for _ in range(60)):
        picture = codes.encode(scene)
        cells = [
            {
                row * GRID + column
                for row in range(thing.top, thing.top + thing.size)
                for column in range(thing.left, thing.left + thing.size)
                if picture[row, column] >= len(BACKGROUNDS)
            }
            for thing in scene.things
        ]
        targets = foresight.targets(scene, picture)
        for at in range(GRID * GRID):
            ahead = [index for index, own in enumerate(cells) if min(own) >= at]
            assert targets[at, 3] == len(ahead)
            assert targets[at, 4] == list(BACKGROUNDS).index(scene.background)
            assert targets[at, 5] * GRID + targets[at, 6] == at
            assert targets[at, 6] < GRID
            if not ahead:
                assert targets[at, :3].tolist() == [foresight.NOTHING] * 3
                continue
            thing = scene.things[min(ahead, key=lambda index: min(cells[index]))]
            quadrant = 1 + 2 * (thing.top >= GRID // 2) + (thing.left >= GRID // 2)
            assert targets[at, 0] == 1 + SHAPES.index(thing.shape)
            assert targets[at, 1] == 1 + list(COLOURS).index(thing.colour)
            assert targets[at, 2] == quadrant
