"""What a caption asks for, against the scene it was written for."""

from __future__ import annotations

import random

from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, TASKS, sample
from train import codes, reading
from train.foresight import begins


def test_targets_name_what_the_caption_names_as_it_is_drawn() -> None:
    rng = random.Random(5)
    for scene in (sample(rng, task=task) for task in TASKS for _ in range(20)):
        shape_a, colour_a, shape_b, colour_b, count, relation, background = reading.targets(scene.caption)
        drawn = [thing for _, thing in sorted(begins(scene, codes.encode(scene)), key=lambda begin: begin[0])]
        assert shape_a == 1 + SHAPES.index(drawn[0].shape)
        assert colour_a in (0, 1 + list(COLOURS).index(drawn[0].colour))
        assert bool(colour_a) == (drawn[0].colour in scene.caption)
        assert shape_b == 1 + SHAPES.index(drawn[1].shape) if len(drawn) > 1 else not shape_b
        assert colour_b in (0, *(1 + list(COLOURS).index(thing.colour) for thing in drawn[1:2]))
        assert bool(colour_b) == (len(drawn) > 1 and bool(colour_a))
        assert count == len(drawn)
        assert bool(relation) == (scene.task == "position")
        assert not relation or RELATIONS[relation - 1] in scene.caption
        assert background == (1 + list(BACKGROUNDS).index(scene.background) if "background" in scene.caption else 0)


def test_a_prompt_without_a_caption_asks_for_nothing() -> None:
    assert reading.targets("") == [reading.NOTHING] * len(reading.CLASSES)
