"""Slots that hold every token until their policy has seen enough to say how each pair keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor

from ..policies.base import Keep
from .ranked import RankedSlots, Ranking
from .slots import Slots
from .storage import Storage


class GrowingSlots(RankedSlots):
    """As many slots as there are tokens when the policy plans anew, so that none is overwritten before."""

    def __init__(
        self,
        choices: Sequence[Keep],
        ranking: Ranking,
        keep: Keep,
        storage: Storage,
        dtype: torch.dtype,
    ) -> None:
        """choices: how each pair may keep afterwards."""
        super().__init__(ranking, keep, storage, dtype)
        self.choices = choices
        self.grown = keep.slots

    @property
    def most(self) -> int:
        return self.choices[-1].slots

    def hand_over(self, pairs: Tensor, to: Slots) -> None:
        """Give the tokens of some pairs, int64 [m], to slots that are still empty: the pinned ones and the newest, or
        those that rank highest, as those slots have it."""
        to.grown = self.stored
        if isinstance(to, RankedSlots):
            self.hand_over_best(pairs, to)
        else:
            kept, slots = to.places(self.stored)  # a token's position is its slot here
            to.storage.take(slots, self.storage, pairs, kept)
            to.stored = self.stored

    def hand_over_best(self, pairs: Tensor, to: RankedSlots) -> None:
        view, kept = replace(self.view(), role=to.keep.role), self.position.long()
        if self.stored > to.keep.slots:
            kept = self.order(view).topk(to.keep.slots, 1).indices
        of_pair, kept = pairs[:, None], kept[pairs]
        held = kept.shape[1]
        to.storage.take(torch.arange(held, device=kept.device), self.storage, pairs, kept)
        to.position[:, :held] = kept
        if self.scores:
            to.score[:, :held] = self.score[of_pair, kept]
        to.queries.copy_(self.queries[pairs])
        to.stored, to.prompted = self.stored, self.prompted


def is_due(slots: Slots) -> TypeGuard[GrowingSlots]:
    """Whether these are slots whose policy plans anew before the next token comes."""
    return isinstance(slots, GrowingSlots) and slots.stored == slots.keep.slots


def choices_of(due: Sequence[GrowingSlots]) -> Iterator[list[int]]:
    """Which of its choices each pair follows, slots by slots.

    On the meta device, where nothing can be seen, all follow the last choice, which has the most slots."""
    chosen = torch.cat([slots.ranking.policy.choose(slots.view()) for slots in due])
    if chosen.is_meta:
        return iter([[len(slots.choices) - 1] * slots.kv.shape[1] for slots in due])
    return iter([own.tolist() for own in chosen.cpu().split([slots.kv.shape[1] for slots in due])])
