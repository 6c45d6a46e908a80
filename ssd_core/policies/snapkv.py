from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import avg_pool1d

from ..errors import UserError
from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, slots_of, uniform
from .views import attention_of_queries, newest_above, rounded


@dataclass(frozen=True)
class SnapKV(RankingPolicy):
    """Every head keeps the newest tokens, a window, and what the window's queries attend most (arXiv 2404.14469).

    The softmax rows of the window's queries are summed and averaged over neighbouring positions, so that tokens stay in
    clusters; tokens dropped before count as unattended there. The paper compresses a prompt once, before answering.
    Here the same is done while the picture is drawn, with a window of a row and one token instead of the paper's 16 to
    64, and the prompt is pinned because every method is compared with its prompt pinned.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    window: newest tokens, which are never dropped and whose queries rank the others; a row + 1 unless given.
    pool: over how many neighbouring positions attention is averaged, an odd number; 1 is not at all.
    pin_prompt: whether the prompt is never dropped; on unless given.
    """

    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    window: int | None = None
    pool: int = 5
    pin_prompt: bool = True
    scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_count("window", self.window, least=1)
        if self.pool < 1 or self.pool % 2 == 0:
            raise UserError(f"pool is an odd number of positions such as 5, or 1 to average none, not {self.pool}.")

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt if self.pin_prompt else 0
        return uniform(Keep(slots_of(self.budget, geometry, prompt, pinned), pinned, ranked=True), geometry)

    def queries(self, geometry: Geometry) -> int:
        return min(self.window or geometry.columns + 1, geometry.tokens)

    def priority(self, view: View) -> Tensor:
        window = self.window or view.columns + 1
        attended = attention_of_queries(view).masked_fill(view.newest - view.position < window, 0)
        places = view.position.long()  # slots are in no order of position
        line = attended.new_zeros(len(places), view.newest + 1).scatter_(1, places, attended)
        pooled = avg_pool1d(line[:, None], self.pool, stride=1, padding=self.pool // 2)[:, 0]
        return newest_above(view, rounded(pooled.gather(1, places)), window)
