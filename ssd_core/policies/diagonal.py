from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..models.base import Geometry
from .base import Keep, Policy, check_budget, slots_of, uniform


@dataclass(frozen=True)
class Diagonal(Policy):
    """Every head keeps the prompt and the newest half of a picture, and skips distances that it attends least
    (arXiv 2609.19702).

    The budget is what a head attends, not what it holds. Once the image tokens it holds are more, each step one
    distance from the newest token is skipped from then on: that of the key attended least, in this step and by this
    head, the newest token left out. When all its slots are filled nothing is chosen any more, and the skipped distances
    move with the newest token. Where the paper is silent it is by the present attention alone that they are chosen.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    held: share of a picture's tokens that a head holds; as many as it attends, at least.
    """

    budget: int | float = 0.2
    held: float = 0.5

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not 0 < self.held <= 1:
            raise UserError(f"held is a share of a picture's tokens, above 0 and at most 1, not {self.held}.")

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        attended = slots_of(self.budget, geometry, prompt, prompt)
        held = min(prompt + int(self.held * geometry.tokens), geometry.cached_tokens(prompt))
        if attended >= held:
            return uniform(Keep(attended, prompt), geometry)
        if attended < prompt + 2:
            raise UserError(
                f"To skip a token a head must attend another beside the newest; raise the budget to at least "
                f"{prompt + 2} tokens, {prompt} of them the prompt's."
            )
        return uniform(Keep(held, prompt, attended=attended), geometry)
