from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_recent, check_refresh, slots_of, uniform
from .views import newest_above, rounded, two_rows


@dataclass(frozen=True)
class ADSA(RankingPolicy):
    """Adaptive Dynamic Sparse Attention (arXiv 2506.18226): a prefix, a local window, of the rest what differs most.

    Of the tokens between prefix and window a head keeps those whose values are least alike: whose mean cosine with the
    values of the others is lowest. The paper leaves the numbers open: here the prefix is the prompt, the window is two
    rows, or half of the slots that are not pinned where that is less, a row and one token at least, and each head
    chooses for itself. The paper moves what it drops to the host's memory; here it is gone, as no step would read it.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    recent: newest tokens never dropped where tokens are ranked; the method's own number unless given.
    pin_prompt: whether the prompt is never dropped; on unless given.
    """

    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    recent: int | None = None
    pin_prompt: bool = True
    scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_recent(self.recent)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt if self.pin_prompt else 0
        return uniform(Keep(slots_of(self.budget, geometry, prompt, pinned), pinned, ranked=True), geometry)

    def priority(self, view: View) -> Tensor:
        recent = two_rows(view) if self.recent is None else self.recent
        values = view.values.float()
        shrink = 1 / torch.linalg.vector_norm(values, dim=-1).clamp_min(1e-12)  # [n, S], to length 1
        between = (view.position >= view.pinned) & (view.newest - view.position >= recent)
        # Of unit vectors u the mean cosine with the n - 1 others is (u . sum(u) - 1) / (n - 1): u . sum(u) ranks alike,
        # and no token meets every other.
        total = torch.bmm((shrink * between)[:, None], values)
        alike = torch.bmm(values, total.mT)[..., 0] * shrink
        return newest_above(view, rounded(-alike), recent)
