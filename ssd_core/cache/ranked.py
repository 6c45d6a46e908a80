"""Slots whose tokens a policy ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..policies.base import Keep, RankingPolicy, View
from .slots import Slots

LEAST_FADE = 2.0**-20  # a millionth: what fades faster is gone after a step all the same
LARGEST_UNIT = 2.0**40


@dataclass(frozen=True)
class Ranking:
    """What ranked slots follow: the policy, and its numbers for the model at hand."""

    policy: RankingPolicy
    refresh: int  # tokens between two rankings
    fade: float  # of attention scores, each step
    columns: int  # image tokens in a row of the picture


class RankedSlots(Slots):
    """Slots that add up the attention each token gets; every `refresh` tokens the policy says who leaves next.

    A token that was ranked lowest stays attended until a new token takes its slot. So a refresh once a row needs no
    more slots than one at each step; it only chooses who leaves a row ahead.
    """

    def __init__(
        self,
        ranking: Ranking,
        count: int,
        keep: Keep,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        super().__init__(count, keep, head_dim, dtype, device)
        self.ranking = ranking
        self.position = torch.arange(keep.slots, dtype=torch.int32, device=device).repeat(count, 1)
        # Fading every score at each step would write all of them. Instead they are kept in a unit that grows.
        self.score = torch.zeros(count, keep.slots, dtype=torch.float32, device=device)
        self.unit = 1.0
        self.growth = 1 / max(ranking.fade, LEAST_FADE)
        # who leaves, one after the other: rows of kv as [2 * n * S, D], all keys' first
        self.leaving = torch.empty(ranking.refresh, 2 * count, dtype=torch.int64, device=device)
        self.first = torch.arange(2 * count, device=device) * keep.slots  # each pair's first row
        self.chosen = 0  # how many the last ranking chose; none before the first
        self.taken = 0  # how many of these have been overwritten

    @property
    def bookkeeping_bytes(self) -> int:
        return sum(part.nbytes for part in (self.position, self.score, self.leaving, self.first))

    def fill(self, keys: Tensor, values: Tensor) -> None:
        super().fill(keys, values)
        self.position[:, : self.held] = super().positions()

    def write(self, kv: Tensor) -> None:
        """Store the newest token in the next free slot, or else in that of the next token to leave."""
        if self.stored < self.keep.slots:
            super().write(kv)
            return
        if self.taken == self.chosen:
            self.rank()
        rows = self.leaving[self.taken]
        self.taken += 1
        dim = kv.shape[-1]
        self.kv.view(-1, dim).index_copy_(0, rows, kv.view(-1, dim))
        self.score.view(-1).index_fill_(0, rows[: kv.shape[1]], 0.0)

    def observe(self, weights: Tensor) -> None:
        if self.unit > LARGEST_UNIT:
            self.settle()
        self.unit *= self.growth
        received = weights.sum(1) if weights.shape[1] > 1 else weights[:, 0]
        self.score[:, : received.shape[1]].add_(received, alpha=self.unit)

    def settle(self) -> None:
        """Bring the scores back to a unit of 1."""
        if self.unit != 1:
            self.score.div_(self.unit)
            self.unit = 1.0

    def rank(self) -> None:
        """Choose whose slots the next tokens take; of tokens ranked alike the older leaves first."""
        self.note_positions()
        self.settle()
        view = View(self.position, self.score, self.stored - 1, self.ranking.columns, self.keep.role)
        priority = self.ranking.policy.priority(view).masked_fill(self.position < self.keep.pinned, torch.inf)
        # One integer a slot that sorts like (priority, position). The bits of a float sort like the float itself, but
        # for negative ones, whose magnitude must be flipped.
        bits = priority.float().view(torch.int32)
        order = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) + self.position
        lowest = order.topk(self.ranking.refresh, 1, largest=False, sorted=True).indices
        torch.add(lowest.T.repeat(1, 2), self.first, out=self.leaving)
        self.chosen, self.taken = self.ranking.refresh, 0

    def note_positions(self) -> None:
        """Enter the tokens stored since the last ranking into `position`."""
        if self.taken:
            came = torch.arange(self.stored - self.taken, self.stored, dtype=torch.int32, device=self.kv.device)
            rows = self.leaving[: self.taken, : len(self.position)]
            self.position.view(-1).index_copy_(0, rows.flatten(), came.repeat_interleave(len(self.position)))

    def positions(self) -> Tensor:
        self.note_positions()
        return self.position[:, : self.held]
