from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.base import Geometry
from .base import Keep, Policy, check_budget, check_count, slots_of, uniform


@dataclass(frozen=True)
class StreamingLLM(Policy):
    """Every head keeps the first tokens, attention sinks, and the newest (arXiv 2309.17453).

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    sinks: how many first tokens; the rest of the prompt ages out like any other token.
    """

    budget: int | float = 0.2
    sinks: int = 4

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_count("sinks", self.sinks)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        return uniform(Keep(slots_of(self.budget, geometry, prompt, self.sinks), self.sinks), geometry)
