"""Slots whose tokens a policy ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Geometry
from ..policies.base import Keep, RankingPolicy, View
from .slots import Slots
from .storage import Storage

LEAST_FADE = 2.0**-20  # a millionth: what fades faster is gone after a step all the same
LARGEST_UNIT = 2.0**40


@dataclass(frozen=True)
class Ranking:
    """What ranked slots follow: the policy, and its numbers for the model at hand."""

    policy: RankingPolicy
    refresh: int  # tokens between two rankings
    fade: float  # of attention scores, each step
    queries: int  # newest queries of a head that are kept
    columns: int  # image tokens in a row of the picture
    group: int  # query heads of a key-value head

    @classmethod
    def of(cls, policy: RankingPolicy, geometry: Geometry) -> Ranking:
        group = geometry.heads // geometry.kv_heads
        refresh, fade, queries = policy.steps_between(geometry), policy.fade(geometry), policy.queries(geometry)
        return cls(policy, refresh, fade, queries, geometry.columns, group)


class RankedSlots(Slots):
    """Slots that note what their policy asks for: the attention each token gets, the newest queries. Every `refresh`
    tokens the policy says who leaves next.

    A token that was ranked lowest stays attended until a new token takes its slot. So a refresh once a row needs no
    more slots than one at each step; it only chooses who leaves a row ahead. Those who leave are moved into the last
    slots, so that each step writes all pairs' newest tokens into the same slot.
    """

    def __init__(self, ranking: Ranking, keep: Keep, storage: Storage, dtype: torch.dtype) -> None:
        """dtype: what queries come in."""
        super().__init__(keep, storage)
        (_, count, _, head_dim), device = self.kv.shape, self.kv.device
        self.ranking = ranking
        self.position = torch.arange(keep.slots, dtype=torch.int32, device=device).repeat(count, 1)
        # Fading every score at each step would write all of them. Instead they are kept in a unit that grows.
        self.scores = ranking.policy.scores
        self.score = torch.zeros(count, keep.slots if self.scores else 0, dtype=torch.float32, device=device)
        self.growth = 1 / max(ranking.fade, LEAST_FADE)
        self.last = keep.slots - ranking.refresh  # where the slots of those who leave begin
        self.first_rows = torch.arange(2 * count, device=device) * keep.slots  # of kv as [2 * n * S, D], each pair's
        self.queries = torch.empty(count, ranking.queries, ranking.group, head_dim, dtype=dtype, device=device)
        self.kernel: Callable[[Tensor], None] | None = None  # moves tokens by what each is worth, float32 [n, S]
        self.prompted = 0  # tokens that came without a query
        self.ranked = False
        self.taken = 0  # of the last slots, how many were overwritten since the last ranking

    @property
    def bookkeeping_bytes(self) -> int:
        return sum(part.nbytes for part in (self.position, self.score, self.queries, self.first_rows))

    def fill(self, keys: Tensor, values: Tensor) -> None:
        super().fill(keys, values)
        self.prompted = self.stored
        self.position[:, : self.held] = super().positions()

    def next_slot(self) -> int:
        """The slot of a token that comes, which counts as stored from now on: a free one, or else that of the next
        token to leave."""
        if self.unit > LARGEST_UNIT:
            self.settle()
        if self.stored < self.keep.slots:
            slot = self.stored
        else:
            if not self.ranked or self.taken == self.ranking.refresh:
                self.rank()
            slot = self.last + self.taken
            self.taken += 1
        self.unit *= self.growth
        self.stored += 1
        return slot

    @property
    def foreseen(self) -> int:
        free = self.keep.slots - self.stored
        next_slots = free if free > 0 else self.ranking.refresh - self.taken if self.ranked else 0
        unit, told = self.unit, 0
        while told < next_slots and unit <= LARGEST_UNIT:
            unit, told = unit * self.growth, told + 1
        return told

    def follow(self, leader: Slots) -> None:
        super().follow(leader)
        if isinstance(leader, RankedSlots):
            self.taken = leader.taken

    def put(self, slot: int, kv: Tensor) -> None:
        super().put(slot, kv)
        if self.ranked and self.scores:  # the slot had a token before
            self.score.select(1, slot).zero_()

    def next_query(self) -> int:
        """Where the newest query is kept, for slots that keep some; the oldest one's place."""
        return (self.stored - self.prompted - 1) % max(self.ranking.queries, 1)

    def observe(self, q: Tensor, weights: Tensor) -> None:
        if self.ranking.queries:
            self.queries.select(1, self.next_query()).copy_(q)
        if self.scores:
            received = weights.sum(1) if weights.shape[1] > 1 else weights[:, 0]
            self.score[:, : received.shape[1]].add_(received, alpha=self.unit)

    def newest_queries(self) -> Tensor:
        """[n, Q, G, D], the newest last."""
        kept, asked = self.ranking.queries, self.stored - self.prompted
        if not 0 < kept < asked:
            return self.queries[:, :asked]
        return self.queries.roll(-(asked % kept), 1)

    def settle(self) -> None:
        """Bring the scores back to a unit of 1."""
        if self.unit != 1:
            self.score.div_(self.unit)
            self.unit = 1.0

    def view(self) -> View:
        """What a policy may look at."""
        self.note_positions()
        self.settle()
        # where numbers are of small precision, reading all of them makes a copy
        keys, values = self.storage.read() if self.ranking.policy.contents else self.kv[:, :, :0]
        return View(
            position=self.position,
            score=self.score,
            keys=keys,
            values=values,
            queries=self.newest_queries(),
            newest=self.stored - 1,
            pinned=self.keep.pinned,
            slots=self.keep.slots,
            columns=self.ranking.columns,
            role=self.keep.role,
        )

    def order(self, view: View) -> Tensor:
        """int64 [n, S] that sorts the tokens of a view as they are to leave; of those ranked alike the older first."""
        priority = self.ranking.policy.priority(view).masked_fill(view.position < view.pinned, torch.inf)
        # One integer a slot that sorts like (priority, position). The bits of a float sort like the float itself, but
        # for negative ones, whose magnitude must be flipped.
        bits = priority.float().view(torch.int32)
        return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) + view.position

    def rank(self) -> None:
        """Choose whose slots the next tokens take."""
        view = self.view()
        if self.kernel:
            self.kernel(self.ranking.policy.priority(view).float().contiguous())
        else:
            self.move_last(self.order(view).topk(self.ranking.refresh, 1, largest=False, sorted=True).indices)
        self.ranked, self.taken = True, 0

    def move_last(self, leaving: Tensor) -> None:
        """Move the tokens in the slots `leaving`, int64 [n, refresh], into the last slots, in this order, and those
        that stay there into the slots that become free."""
        pairs, refresh = leaving.shape
        leaves = torch.zeros_like(self.position, dtype=torch.bool).scatter_(1, leaving, True)[:, self.last :]
        # Beside the slots that become free stand the last ones whose tokens stay, as many, and then those that neither
        # become free nor stay: these are written twice, and the second time counts.
        free = leaving.gather(1, (leaving >= self.last).byte().argsort(dim=1, stable=True))
        staying = leaves.byte().argsort(dim=1, stable=True) + self.last

        def rows(slots: Tensor) -> Tensor:
            return (slots.repeat(2, 1) + self.first_rows[:, None]).flatten()

        leaving_rows, free_rows, staying_rows = map(rows, (leaving, free, staying))
        for stored in self.storage.parts:
            all_rows = stored.view(-1, stored.shape[-1])
            last = all_rows.index_select(0, leaving_rows).view(2, pairs, refresh, -1)
            all_rows.index_copy_(0, free_rows, all_rows.index_select(0, staying_rows))
            stored[:, :, self.last :] = last
        for part in (self.position, self.score) if self.scores else (self.position,):
            last = part.gather(1, leaving)
            part.scatter_(1, free, part.gather(1, staying))
            part[:, self.last :] = last

    def note_positions(self) -> None:
        """Enter the tokens stored since the last ranking into `position`."""
        if self.taken:
            came = torch.arange(self.stored - self.taken, self.stored, dtype=torch.int32, device=self.kv.device)
            self.position[:, self.last : self.last + self.taken] = came

    def positions(self) -> Tensor:
        self.note_positions()
        return self.position[:, : self.held]
