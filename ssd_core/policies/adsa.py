from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, slots_of, uniform
from .views import newest_above, rounded, two_rows


@dataclass(frozen=True)
class ADSA(RankingPolicy):
    """Adaptive Dynamic Sparse Attention (arXiv 2506.18226): a prefix, a local window, of the rest what differs most.

    Of the tokens between prefix and window a head keeps those whose values are least alike: whose mean cosine with the
    values of the others is lowest. The paper leaves the numbers open: here the prefix is the prompt, the window is two
    rows, or half of the slots that are not pinned where that is less, a row and one token at least, and each head
    chooses for itself.

    What is dropped is gone, or with `offload`, as the paper has it, moved to the host's memory. Then a ranking compares
    all earlier tokens anew, and one in the host's memory that has become less alike than one held comes back: nothing
    is dropped for good, in as many slots. A ranking brings the values of all tokens to the device and then their keys,
    a layer at a time, and costs as much as it takes to read a full cache once over the bus, but nothing between two
    rankings. The sum of values that all are compared with is made anew each time: those are read whether or not it is,
    it is one pass over them, and a sum that was added to would round otherwise.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    recent: newest tokens never dropped where tokens are ranked; the method's own number unless given.
    pin_prompt: whether the prompt is never dropped; on unless given.
    offload: whether dropped tokens go to the host's memory, from where they may come back.
    """

    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    recent: int | None = None
    pin_prompt: bool = True
    offload: bool = False
    scores: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_count("recent", self.recent)

    @property
    def recalls(self) -> bool:
        return self.offload

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        pinned = prompt if self.pin_prompt else 0
        slots = slots_of(self.budget, geometry, prompt, pinned)
        newest = self.newest(geometry.columns, slots - pinned)
        if self.offload and newest >= slots - pinned and slots < geometry.cached_tokens(prompt):
            raise UserError(
                f"Of {slots} slots, {pinned} of them pinned, the {newest} newest tokens leave none for a token that "
                "comes back, so offload has no effect; raise the budget or leave offload out."
            )
        return uniform(Keep(slots, pinned, ranked=True), geometry)

    def newest(self, columns: int, free: int) -> int:
        """How many of the newest tokens are never dropped where `free` slots are not pinned."""
        return two_rows(columns, free) if self.recent is None else self.recent

    def priority(self, view: View) -> Tensor:
        recent = self.newest(view.columns, view.slots - view.pinned)
        values = view.values.float()
        shrink = 1 / torch.linalg.vector_norm(values, dim=-1).clamp_min(1e-12)  # [n, S], to length 1
        between = (view.position >= view.pinned) & (view.newest - view.position >= recent)
        # Of unit vectors u the mean cosine with the n - 1 others is (u . sum(u) - 1) / (n - 1): u . sum(u) ranks alike,
        # and no token meets every other.
        total = torch.bmm((shrink * between)[:, None], values)
        alike = torch.bmm(values, total.mT)[..., 0] * shrink
        return newest_above(view, rounded(-alike), recent)
