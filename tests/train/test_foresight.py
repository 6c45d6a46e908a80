"""What lies ahead of each token, against a picture read token by token."""

from __future__ import annotations

import random

import numpy as np
import torch

from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, GRID, SHAPES, Scene, Thing, sample
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


def test_the_loss_is_small_for_the_right_answers_alone() -> None:
    scene = Scene("", "", "black", (Thing("ring", "red", 2, 3, 8),))
    ahead = torch.from_numpy(foresight.targets(scene, codes.encode(scene)))[None]
    assert ahead.shape == (1, GRID * GRID, len(foresight.CLASSES))
    head = foresight.Foresight(sum(foresight.CLASSES))
    head.norm = torch.nn.Identity()  # type: ignore[assignment]
    head.out.weight.data.copy_(50 * torch.eye(sum(foresight.CLASSES)))
    head.out.bias.data.zero_()
    first = np.cumsum([0, *foresight.CLASSES[:-1]])
    right = torch.zeros(1, GRID * GRID, sum(foresight.CLASSES)).scatter(2, ahead + torch.from_numpy(first), 1.0)
    assert sum(head.loss(right, ahead)) < 1e-4
    for question in range(len(foresight.CLASSES)):
        own = slice(first[question], first[question] + foresight.CLASSES[question])
        wrong = right.clone()
        wrong[..., own] = wrong[..., own].roll(1, -1)
        what, where = head.loss(wrong, ahead)
        assert (what > 5) == (question < 5)
        assert (where > 5) == (question >= 5)
