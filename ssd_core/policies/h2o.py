from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, slots_of, uniform
from .views import newest_above, rounded


@dataclass(frozen=True)
class H2O(RankingPolicy):
    """Every head keeps its heavy hitters, the tokens attended most so far, and the newest ones (arXiv 2306.14048).

    As in the paper attention received is added up and never fades, half of the slots are for the newest tokens, and
    each head has sums of its own. The paper drops a token at each step (`refresh` 1) and pins nothing; the prompt is
    pinned here because every method is compared with its prompt pinned. Of the prompt only begin-of-image, which is
    fed with the image, adds to the sums.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    recent: newest tokens never dropped where tokens are ranked; the method's own number unless given.
    pin_prompt: whether the prompt is never dropped; on unless given.
    """

    contents: ClassVar[bool] = False
    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    recent: int | None = None
    pin_prompt: bool = True

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_count("recent", self.recent)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt if self.pin_prompt else 0
        return uniform(Keep(slots_of(self.budget, geometry, prompt, pinned), pinned, ranked=True), geometry)

    def priority(self, view: View) -> Tensor:
        recent = view.position.shape[1] // 2 if self.recent is None else self.recent
        return newest_above(view, rounded(view.score), recent)
