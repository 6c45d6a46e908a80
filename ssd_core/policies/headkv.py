from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_count, check_refresh, check_share, slots_of, uniform


@dataclass(frozen=True)
class HeadKV(RankingPolicy):
    """HeadKV for images (arXiv 2605.20600): each picture tells its own local heads from its global ones.

    All heads keep everything until a row holds `type_at` tokens, more after long prompts. Then the newest query types
    each head: one whose newest `local` image tokens gather `mass` of its attention to image tokens is local and keeps
    the prompt and that window. Global heads also keep the history between the two, as Stratified Token Eviction leaves
    it: half of what goes is from its older, half from its younger part, those whose keys answer the queries since the
    last ranking least (the mean of q.k). The budget is what global heads hold; local ones leave theirs unused.

    Where the paper is silent: query heads that share keys count by their mean, each guidance row types its own heads,
    and what comes takes the slots of those chosen to go, one by one, so that the paper's buffer needs none.

    budget: mean slots per head, a share of prompt + image such as 0.2 or a count of tokens such as 115.
    type_at: tokens a row holds, prompt included, when its heads are typed.
    mass: the share of a head's image attention that must lie within the window of a local head.
    local: newest tokens that local heads keep, and global ones never drop; two rows unless given, and never more than
        the budget leaves beside the prompt.
    refresh: tokens between two rankings, or 'row'; it takes no memory beyond the budget.
    split: the share of the history that counts as its older part.
    """

    scores: ClassVar[bool] = False
    budget: int | float = 0.2
    type_at: int = 100
    mass: float = 0.9
    local: int | None = None
    refresh: int | Literal["row"] = "row"
    split: float = 0.5

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_refresh(self.refresh)
        check_count("type_at", self.type_at, least=1)
        check_share("mass", self.mass)
        check_count("local", self.local, least=1)
        check_share("split", self.split)

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        grown = self.replan_at(geometry, prompt)
        everything = Keep(geometry.cached_tokens(prompt), prompt)
        return uniform(Keep(grown, prompt, ranked=True, role="untyped") if grown else everything, geometry)

    def replan_at(self, geometry: Geometry, prompt: int) -> int | None:
        whole = geometry.cached_tokens(prompt)
        if slots_of(self.budget, geometry, prompt, prompt) == whole:
            return None
        at = max(self.type_at, prompt + ceil(self.window(geometry.columns) / self.mass))  # or even looks seem local
        if at < whole:
            return at
        raise UserError(
            f"Heads are typed at {at} tokens of {whole}; lower type_at and local, or raise the budget to all."
        )

    def choices(self, geometry: Geometry, prompt: int) -> Sequence[Keep]:
        slots = slots_of(self.budget, geometry, prompt, prompt)
        local = Keep(min(prompt + self.window(geometry.columns), slots), prompt, role="local")
        return [local, Keep(slots, prompt, ranked=True, role="global")]

    def window(self, columns: int) -> int:
        """Newest tokens that every head keeps."""
        return 2 * columns if self.local is None else self.local

    def queries(self, geometry: Geometry) -> int:
        return self.steps_between(geometry)

    def choose(self, view: View) -> Tensor:
        query, keys = view.queries[:, -1], view.keys[:, view.pinned :]
        weights = torch.softmax((query @ keys.mT).float() * query.shape[-1] ** -0.5, -1).mean(1)
        missing = weights.flip(1).cumsum(1) < self.mass  # from the newest backward
        return (missing.sum(1) + 1 >= self.window(view.columns)).long()

    def priority(self, view: View) -> Tensor:
        slots, pinned = view.position.shape[1], view.pinned
        history = max(slots - pinned - self.window(view.columns), 0)
        asked = view.queries.float().mean((1, 2)).to(view.keys.dtype)  # the mean of q.k is that of q, times k
        by_age = view.position.argsort(1)
        answer = torch.bmm(view.keys, asked[:, :, None])[:, :, 0].gather(1, by_age)[:, pinned : pinned + history]
        # the lowest of the older part, the lowest of the younger one, the next of each; then the recent ones by age
        parts = answer.tensor_split([int(self.split * history)], 1)
        ranks = [2 * part.argsort(dim=1, stable=True).argsort(1) + young for young, part in enumerate(parts)]
        recent = torch.arange(2 * slots, 3 * slots - pinned - history, device=answer.device).expand(len(answer), -1)
        ranked = torch.cat([torch.zeros_like(by_age[:, :pinned]), *ranks, recent], 1)
        return torch.empty_like(by_age).scatter_(1, by_age, ranked).float()
