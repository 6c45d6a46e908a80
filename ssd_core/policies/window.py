from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.base import Geometry
from .base import Keep, Policy, check_budget, slots_of, uniform


@dataclass(frozen=True)
class Window(Policy):
    """Every head keeps the newest tokens and, unless `pin_prompt` is off, the prompt.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    pin_prompt: whether the prompt is never dropped; on unless given.
    """

    budget: int | float = 0.2
    pin_prompt: bool = True

    def __post_init__(self) -> None:
        check_budget(self.budget)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt if self.pin_prompt else 0
        return uniform(Keep(slots_of(self.budget, geometry, prompt, pinned), pinned), geometry)
