from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry
from .base import Keep, RankingPolicy, View, check_budget, check_refresh, slots_of, uniform


@dataclass(frozen=True)
class HeadKV(RankingPolicy):
    """HeadKV for images (arXiv 2605.20600): each picture tells its own local heads from its global ones.

    All heads keep everything until a row holds `type_at` tokens. Then the newest query types each head, once: going
    back from the newest image token, how many does it take to gather `mass` of the head's attention to image tokens?
    Fewer than `local`, and the head is local: from then on it keeps the prompt and a window. The others are global:
    they keep the prompt, the window and, of the history between them, what Stratified Token Eviction leaves. Of what
    must go it takes half from the older and half from the younger part of the history, those tokens whose keys answer
    the queries since the last ranking least (the mean of q.k, without a softmax).

    Where the paper is silent: query heads that share keys count by their mean. Each guidance row types its own heads.
    The tokens that come between two evictions, the paper's buffer, take the slots of those chosen to go one by one, so
    the buffer needs no slots of its own. After a long prompt heads are typed later, when one that looks at all image
    tokens alike would be found global; before, all would be local. A budget of the whole picture drops nothing.

    The budget is what global heads hold. Local heads hold less and leave their share unused: the budget bounds the
    mean, and how far below it stays is found out with the types.

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
        if self.type_at < 1:
            raise UserError(f"type_at is a number of tokens of at least 1, not {self.type_at}.")
        if not 0 < self.mass < 1:
            raise UserError(f"mass is a share between 0 and 1, such as 0.9, not {self.mass}.")
        if self.local is not None and self.local < 1:
            raise UserError(f"local is a number of tokens of at least 1, not {self.local}.")
        if not 0 < self.split < 1:
            raise UserError(f"split is a share between 0 and 1, such as 0.5, not {self.split}.")

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        grown = self.replan_at(geometry, prompt)
        if grown is None:
            return uniform(Keep(geometry.cached_tokens(prompt), prompt), geometry)
        return uniform(Keep(grown, prompt, ranked=True, role="untyped"), geometry)

    def replan_at(self, geometry: Geometry, prompt: int) -> int | None:
        whole = geometry.cached_tokens(prompt)
        if slots_of(self.budget, geometry, prompt, prompt) == whole:
            return None
        seen = ceil(self.window(geometry.columns) / self.mass)  # what looks at so many alike is global
        at = max(self.type_at, prompt + seen)
        if at >= whole:
            raise UserError(
                f"Heads are to be typed at {at} tokens, but the picture ends at {whole}, with a prompt of "
                f"{prompt}; lower type_at and local, or raise the budget to the whole."
            )
        return at

    def choices(self, geometry: Geometry, prompt: int) -> Sequence[Keep]:
        slots = slots_of(self.budget, geometry, prompt, prompt)
        window = min(prompt + self.window(geometry.columns), slots)
        return [Keep(window, prompt, role="local"), Keep(slots, prompt, ranked=True, role="global")]

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
        history = slots - pinned - min(self.window(view.columns), slots - pinned)
        older = int(self.split * history)
        asked = view.queries.float().mean((1, 2)).to(view.keys.dtype)  # the mean of q.k is that of q, times k
        by_age = view.position.argsort(1)
        answer = torch.bmm(view.keys, asked[:, :, None])[:, :, 0].gather(1, by_age)[:, pinned : pinned + history]
        # the lowest of the older part, the lowest of the younger one, the next of each; then the recent ones by age
        parts = (answer[:, :older], answer[:, older:])
        ranks = [2 * part.argsort(dim=1, stable=True).argsort(1) + young for young, part in enumerate(parts)]
        recent = torch.arange(2 * slots, 3 * slots - pinned - history, device=answer.device).expand(len(answer), -1)
        ranked = torch.cat([torch.zeros_like(by_age[:, :pinned]), *ranks, recent], 1)
        return torch.empty_like(by_age).scatter_(1, by_age, ranked).float()
