from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, slots_of, uniform
from .views import attention_of_queries, newest_above, rounded, two_rows


@dataclass(frozen=True)
class LineAR(RankingPolicy):
    """Every head keeps prompt, first image tokens, recent rows, and what the last row looks at (arXiv 2512.04857).

    What stands between the anchors and the recent rows is ranked by the attention of a row's queries once they are all
    there, and what they attend least makes room for the next row. All heads have the same budget. The paper leaves the
    numbers open: there are 4 anchors here, and two recent rows, or half of the slots that are not pinned where that is
    less, a row and one token at least. A row is the newest 24 tokens on a grid of 24 columns; the first ranking comes
    when the slots are full, not where the grid's row ends.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    anchors: how many of the first image tokens are never dropped.
    recent: newest tokens never dropped where tokens are ranked; the method's own number unless given.
    """

    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    anchors: int = 4
    recent: int | None = None
    scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_count("recent", self.recent)
        check_count("anchors", self.anchors)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt + self.anchors
        return uniform(Keep(slots_of(self.budget, geometry, prompt, pinned), pinned, ranked=True), geometry)

    def queries(self, geometry: Geometry) -> int:
        return geometry.columns

    def priority(self, view: View) -> Tensor:
        recent = two_rows(view.columns, view.slots - view.pinned) if self.recent is None else self.recent
        return newest_above(view, rounded(attention_of_queries(view)), recent)
