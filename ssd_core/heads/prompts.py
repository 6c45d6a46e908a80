"""What heads are measured on where nobody says."""

from __future__ import annotations

import random

from ..evaluate.scenes import TASKS, sample

EMBEDDED = "janus-shapes"
EVERYDAY = (
    "a red bicycle leaning against a brick wall",
    "a close-up portrait of an old fisherman with a white beard",
    "two cats asleep on a blue sofa",
    "a mountain lake at sunrise, oil painting",
    "a bowl of noodle soup with an egg, seen from above",
    "a rainy street at night with a sign that says OPEN",
    "an astronaut playing chess on the moon",
    "a green apple to the left of a yellow cup on a table",
)


def default_prompts(model: str) -> list[str]:
    """Prompts of the world that a model was trained on, by its name."""
    if model != EMBEDDED:
        return list(EVERYDAY)
    rng = random.Random(0)
    return [sample(rng, task=task).caption for task in TASKS * 2]
