"""Slots: where the keys and values live of all (row, head) pairs of a layer that keep alike."""

from __future__ import annotations

import torch
from torch import Tensor

from ..policies.base import Keep, RankingPolicy, View
from .attention import attend_slots


class Slots:
    """The slots of n (row, kv head) pairs of one layer that hold the same number of tokens and drop them alike.

    keys [n, D, S], values [n, S, D]; keys are stored after RoPE, so a slot is overwritten in place and nothing ever
    moves. The pairs' rows have prompts of one length, so all pairs always hold equally many tokens: the filled slots
    are a prefix, and no mask is needed.

    A token that has been ranked lowest stays attended until a new token needs its slot. So a refresh once a row takes
    no slot more than one at each step; it only chooses who goes a row ahead.
    """

    def __init__(
        self,
        pairs: Tensor | None,
        count: int,
        keep: Keep,
        head_dim: int,
        columns: int,
        policy: RankingPolicy | None,
        refresh: int,
        fade: float,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """pairs: int64 [n], row * kv_heads + head of each pair; None if they are all pairs in order."""
        size = keep.slots
        self.pairs, self.keep, self.columns, self.policy, self.fade = pairs, keep, columns, policy, fade
        self.refresh = refresh
        self.keys = torch.empty(count, head_dim, size, dtype=dtype, device=device)
        self.values = torch.empty(count, size, head_dim, dtype=dtype, device=device)
        self.stored = 0  # tokens that have come so far
        self.position: Tensor | None = None
        self.score: Tensor | None = None
        self.leaving: Tensor | None = None  # int64 [refresh, n]: the slots that the next tokens take, in this order
        self.chosen = 0  # how many the last ranking chose; none before the first
        self.taken = 0  # how many of these have been overwritten
        if keep.ranked:
            self.position = torch.arange(size, dtype=torch.int32, device=device).repeat(count, 1)
            self.score = torch.zeros(count, size, dtype=torch.float32, device=device)
            self.leaving = torch.empty(refresh, count, dtype=torch.int64, device=device)

    @property
    def kv_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def bookkeeping_bytes(self) -> int:
        parts = (self.position, self.score, self.leaving, self.pairs)
        return sum(part.nbytes for part in parts if part is not None)

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Store a prompt's tokens [n, T, D]; of a prompt longer than the slots, the pinned ones and the newest."""
        tokens, size, pinned = keys.shape[1], self.keep.slots, self.keep.pinned
        kept = torch.arange(tokens, device=keys.device)
        if tokens > size:
            kept = torch.cat([kept[:pinned], kept[tokens - (size - pinned) :]])
        slot = torch.where(kept < size, kept, pinned + (kept - pinned) % max(size - pinned, 1))
        self.keys[:, :, slot] = keys[:, kept].transpose(1, 2)
        self.values[:, slot] = values[:, kept]
        if self.position is not None:
            self.position[:, slot] = kept.to(torch.int32)
        self.stored = tokens

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the newest token, k and v [n, D], then answer its queries q [n, G, D] -> [n, G, D]."""
        self._write(k, v)
        held = min(self.stored, self.keep.slots)
        output, weights = attend_slots(q, self.keys[:, :, :held], self.values[:, :held])
        if self.score is not None:
            self.score.mul_(self.fade)[:, :held].add_(weights.sum(1))
        return output

    def _write(self, k: Tensor, v: Tensor) -> None:
        size, pinned = self.keep.slots, self.keep.pinned
        if self.stored < size or not self.keep.ranked:
            slot = self.stored if self.stored < size else pinned + (self.stored - pinned) % (size - pinned)
            self.keys.select(2, slot).copy_(k)
            self.values.select(1, slot).copy_(v)
        else:
            assert self.leaving is not None and self.score is not None
            if self.taken == self.chosen:
                self._rank()
            slots = self.leaving[self.taken]
            self.taken += 1
            index = slots[:, None, None]
            self.keys.scatter_(2, index.expand(-1, k.shape[1], 1), k[:, :, None])
            self.values.scatter_(1, index.expand(-1, 1, v.shape[1]), v[:, None])
            self.score.scatter_(1, slots[:, None], 0.0)
        self.stored += 1

    def _rank(self) -> None:
        """Choose whose slots the next tokens take; of tokens ranked alike the older goes first."""
        assert self.position is not None and self.score is not None and self.policy is not None
        assert self.leaving is not None
        self._note_positions()
        newest = self.stored - 1
        view = View(self.position, self.score, newest, self.columns, self.keep.role)
        priority = self.policy.priority(view).masked_fill(self.position < self.keep.pinned, torch.inf)
        by_age = self.position.argsort(1)
        order = priority.gather(1, by_age).argsort(dim=1, stable=True)
        self.leaving.copy_(by_age.gather(1, order[:, : self.refresh]).T)
        self.chosen, self.taken = self.refresh, 0

    def _note_positions(self) -> None:
        """Enter the tokens stored since the last ranking into `position`."""
        if self.taken:
            assert self.position is not None and self.leaving is not None
            came = torch.arange(self.stored - self.taken, self.stored, dtype=torch.int32, device=self.keys.device)
            self.position.scatter_(1, self.leaving[: self.taken].T, came.expand(len(self.position), -1))

    def positions(self) -> Tensor:
        """int32 [n, held]: the position each filled slot's token came from."""
        size, pinned = self.keep.slots, self.keep.pinned
        held = min(self.stored, size)
        if self.position is not None:
            self._note_positions()
            return self.position[:, :held]
        slot = torch.arange(held, dtype=torch.int32, device=self.keys.device)
        if self.stored > size:
            cycle = size - pinned
            age = (self.stored - 1 - pinned - (slot - pinned)) % cycle
            slot = slot.where(slot < pinned, self.stored - 1 - age)
        return slot.expand(len(self.keys), -1)
