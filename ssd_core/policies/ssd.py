from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from ..errors import UserError
from ..heads.headmap import SPATIAL, HeadMap, check_tau, default_map
from ..models.base import Geometry, ImageModel
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, slots_of
from .views import newest_above


@dataclass(frozen=True)
class SSD(RankingPolicy):
    """Spatial-Semantic Head Decoupling (arXiv 2510.18716): spatial heads keep a window, semantic ones what is attended.

    A head is semantic if more than `tau` of its image attention falls outside its neighbourhood (heads/). Spatial heads
    keep the last row and one token more; what they leave of the budget goes to the semantic heads, which keep the
    tokens with the largest attention so far, that of a row ago by half; half of their slots, a row and one token at
    least, are for the newest.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    tau: where semantic begins.
    spatial: newest image tokens that spatial heads hold; a row and one token unless given.
    recent: newest tokens never dropped where tokens are ranked; the method's own number unless given.
    half_life: rows after which attention received counts half; the method's own number unless given.
    pin_prompt: whether the prompt is never dropped; on unless given.
    literal: as the paper has it, where nothing is pinned, scores never fade and no token is kept for being recent.
    head_map: which heads are semantic; the model's own unless given.
    """

    contents: ClassVar[bool] = False
    budget: int | float = 0.2
    refresh: int | Literal["row"] = "row"
    tau: float = SPATIAL
    spatial: int | None = None
    recent: int | None = None
    half_life: float | None = None
    pin_prompt: bool | None = None
    literal: bool = False
    head_map: HeadMap | None = None

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_tau(self.tau)
        check_count("recent", self.recent)
        check_count("spatial", self.spatial, least=1)
        if self.half_life is not None and not self.half_life > 0:
            raise UserError(f"half_life is a number of rows above 0, not {self.half_life}.")
        if self.literal and (self.recent, self.half_life, self.pin_prompt) != (None, None, None):
            raise UserError("literal sets recent, half_life and pin_prompt as the paper has them; leave them out.")

    def fit(self, model: ImageModel) -> SSD:
        head_map = self.head_map or default_map(model.name, model.geometry)
        head_map.check(model.geometry)
        return replace(self, head_map=head_map)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        if self.head_map is None:
            raise UserError("SSD needs to know which heads are semantic; call fit(model) or give a head_map.")
        pinned = 0 if self.literal or self.pin_prompt is False else prompt
        mean = slots_of(self.budget, geometry, prompt, pinned)
        semantic = self.head_map.semantic(self.tau, geometry)
        heads, wide = semantic.numel(), int(semantic.sum())
        narrow = heads - wide
        window = min(pinned + (self.spatial or geometry.columns + 1), mean) if wide else mean
        share = min((mean * heads - window * narrow) // wide, geometry.cached_tokens(prompt)) if wide else 0
        if narrow:  # what semantic heads cannot use goes back
            window = min((mean * heads - share * wide) // narrow, geometry.cached_tokens(prompt))
        kinds = (Keep(window, pinned, role="spatial"), Keep(share, pinned, ranked=True, role="semantic"))
        return [[kinds[kind] for kind in layer] for layer in semantic.long().tolist()]

    def fade(self, geometry: Geometry) -> float:
        return 1.0 if self.literal else 0.5 ** (1 / ((self.half_life or 1.0) * geometry.columns))

    def priority(self, view: View) -> Tensor:
        if self.literal:
            return view.score
        recent = max(view.columns + 1, view.position.shape[1] // 2) if self.recent is None else self.recent
        return newest_above(view, view.score, recent)
