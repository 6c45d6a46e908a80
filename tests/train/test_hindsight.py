"""What began before each token, against what lies ahead of it."""

from __future__ import annotations

import random

from ssd_core.evaluate.scenes import COLOURS, GRID, SHAPES, sample
from train import codes, foresight, hindsight


def test_targets_name_what_was_ahead_and_is_no_more() -> None:
    rng = random.Random(4)
    for scene in (sample(rng) for _ in range(60)):
        picture = codes.encode(scene)
        ahead, behind = foresight.targets(scene, picture), hindsight.targets(scene, picture)
        assert behind[0].tolist() == [hindsight.NOTHING] * 3
        for at in range(1, GRID * GRID):
            assert behind[at, 0] == len(scene.things) - ahead[at, 3]
            has_begun = ahead[at, 3] < ahead[at - 1, 3]
            expected = ahead[at - 1, :2] if has_begun else behind[at - 1, 1:]
            assert (behind[at, 1:] == expected).all()
        last = max(foresight.begins(scene, picture), key=lambda each: each[0])[1]
        assert behind[-1, 1:].tolist() == [1 + SHAPES.index(last.shape), 1 + list(COLOURS).index(last.colour)]
