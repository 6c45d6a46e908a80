from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..heads.headmap import HeadMap, default_map
from ..models.base import Geometry, ImageModel
from .base import Keep, RankingPolicy, View, check_budget, check_refresh, slots_of
from .views import newest_above

LOST = 0.02
PEAK = 2 / 3
FAR_ROWS = 4
HALF_LIFE = 0.5  # rows


@dataclass(frozen=True)
class Reach(RankingPolicy):
    """Each head holds as many tokens as it looks back, and what that leaves goes to the heads that look far.

    How far a head looks was measured once (heads/): a near head holds the prompt and the newest image tokens, so many
    that no more than `lost` of its attention goes beyond them. Far heads, for which a row and a token are not enough,
    hold the prompt, the newest tokens in half of their other slots, and in the rest what was attended most of late.
    Where the budget leaves far heads four rows even so, near heads hold a row and a token, and those that once gave
    more than two thirds of their attention to what lies farther are far heads, too. This is SSD (arXiv 2510.18716) with
    a window for each head instead of one for all, with a fade of half a row, and with so few tokens between two
    rankings that a small cache still holds something old.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    lost: the share of a near head's attention, to the prompt included, that may go beyond its window; unless given,
        0.02 where the budget is small. For maps that know how far heads look.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    half_life: rows after which attention received counts half; the method's own number unless given.
    head_map: how far each head looks; the model's own unless given. Of a map that only knows which heads are semantic,
        the others are near and hold a row and a token.
    """

    contents: ClassVar[bool] = False
    budget: int | float = 0.2
    lost: float | None = None
    refresh: int | Literal["row"] = 6
    half_life: float | None = None
    head_map: HeadMap | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        if self.lost is not None and not 0 <= self.lost < 1:
            raise UserError(f"lost is a share of attention, 0 or more and below 1, not {self.lost}.")
        if self.half_life is not None and not self.half_life > 0:
            raise UserError(f"half_life is a number of rows above 0, not {self.half_life}.")

    def fit(self, model: ImageModel) -> Reach:
        head_map = self.head_map or default_map(model.name, model.geometry)
        head_map.check(model.geometry)
        if self.lost is not None and head_map.beyond is None:
            raise UserError(
                "lost has no effect with a head map that only knows which heads are semantic; measure a map that knows "
                "how far they look, or leave it out."
            )
        return replace(self, head_map=head_map)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        if self.head_map is None:
            raise UserError("Reach needs to know how far each head looks; call fit(model) or give a head_map.")
        mean, whole = slots_of(self.budget, geometry, prompt, prompt), geometry.cached_tokens(prompt)
        reach = self.reach(self.head_map, geometry, mean - prompt)
        windows = prompt + reach[reach > 0]
        near, far = len(windows), reach.numel() - len(windows)
        # windows are cut as far as far heads would else have less than the mean
        cut = largest(whole, lambda most: int(windows.clamp(max=most).sum()) <= mean * near)
        windows = windows.clamp(max=cut)
        slots = min((mean * reach.numel() - int(windows.sum())) // far, whole) if far else 0
        # what far heads cannot use goes back
        rest = mean * reach.numel() - slots * far
        least = largest(whole, lambda least: int(windows.clamp(min=least).sum()) <= rest)
        sizes = torch.full_like(reach, slots).masked_scatter(reach > 0, windows.clamp(min=least))
        return [
            [
                Keep(size, prompt, role="near") if near else Keep(size, prompt, ranked=True, role="far")
                for size, near in zip(*layer, strict=True)
            ]
            for layer in zip(sizes.tolist(), (reach > 0).tolist(), strict=True)
        ]

    def reach(self, head_map: HeadMap, geometry: Geometry, mean: int) -> Tensor:
        """int64 [layers, kv_heads]: the image tokens a near head is to hold, 0 for a far one. mean: what there is."""
        if self.lost is not None:
            return head_map.reach(self.lost, geometry)
        near = (head_map.reach(LOST, geometry) > 0) & ~head_map.seldom_far(PEAK, geometry)
        far, row = int((~near).sum()), geometry.columns + 1
        roomy = mean * near.numel() - row * (near.numel() - far) >= FAR_ROWS * geometry.columns * far
        return near * row if roomy else head_map.reach(LOST, geometry)

    def fade(self, geometry: Geometry) -> float:
        return 0.5 ** (1 / ((self.half_life or HALF_LIFE) * geometry.columns))

    def priority(self, view: View) -> Tensor:
        return newest_above(view, view.score, (view.position.shape[1] - view.pinned) // 2)


def largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, where whatever is smaller than one that fits does so, too."""
    return bisect_left(range(most + 1), True, key=lambda number: not fits(number)) - 1
