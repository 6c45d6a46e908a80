import random

import pytest

from ssd_core.errors import UserError
from ssd_core.evaluate.captions import Asked, Request, parse
from ssd_core.evaluate.scenes import TASKS, sample


@pytest.mark.parametrize("task", TASKS)
def test_a_caption_says_what_its_scene_holds(task: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = sample(rng, task=task)
        request = parse(scene.caption)
        assert request.task == task
        assert [asked.shape for asked in request.objects] == [thing.shape for thing in scene.things]
        for asked, thing in zip(request.objects, scene.things, strict=True):
            assert asked.colour == (thing.colour if thing.colour in scene.caption else None)
        assert request.background == (scene.background if "background" in scene.caption else None)


def test_a_relation_keeps_its_direction() -> None:
    assert parse("a red ring above an orange cross on a grey background") == Request(
        "position", (Asked("ring", "red"), Asked("cross", "orange")), "above", "grey"
    )


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a photo of a dog",
        "a red circle and a square",  # both coloured or neither
        "two circle",
        "five circles",
        "a orange circle",
        "a circle on a red background",
        "a circle above a square and a ring",
        "A circle",
    ],
)
def test_other_texts_are_refused(caption: str) -> None:
    with pytest.raises(UserError, match="is no caption of ShapesEval"):
        parse(caption)
