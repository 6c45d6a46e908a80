"""Slots that hold more tokens than they attend."""

from __future__ import annotations

import torch
from torch import Tensor

from ..policies.base import Keep
from .slots import Slots
from .storage import Storage


class DiagonalSlots(Slots):
    """Slots that skip tokens by their distance from the newest one; which distances is learnt while they fill.

    The slots behind the pinned ones are a ring of W, so the token in the r-th of them is at a distance of (newest - r)
    mod W. bias [n, 1, 2 * W] is 0, or -inf where a distance is skipped, in such an order that the ring's biases are W
    neighbours in it, which begin one place further to the left at each step: they move with the newest token, and
    nothing is copied.
    """

    def __init__(self, keep: Keep, storage: Storage, dtype: torch.dtype) -> None:
        """dtype: what is attended in."""
        super().__init__(keep, storage)
        self.ring = keep.slots - keep.pinned
        self.bias = torch.zeros(self.kv.shape[1], 1, 2 * self.ring, dtype=dtype, device=self.kv.device)

    @property
    def bookkeeping_bytes(self) -> int:
        return self.bias.nbytes

    def attend(self, q: Tensor, kv: Tensor, output: Tensor) -> None:
        self.put(self.next_slot(), kv)
        behind = self.held - self.keep.pinned  # filled slots of the ring
        if behind <= 0:
            self.storage.attend(q, self.held, output)
            return
        first = self.ring - 1 - (self.stored - 1 - self.keep.pinned) % self.ring
        bias = self.bias.narrow(2, first, behind)
        weights = self.storage.attend(q, self.held, output, bias)
        if self.keep.attended - self.keep.pinned <= behind < self.ring:
            self.skip_least(weights[:, :, -behind:], bias, first)

    def skip_least(self, weights: Tensor, bias: Tensor, first: int) -> None:
        """Skip one more distance from the next step on: that of the token attended least, of equals the oldest. It is
        neither the newest token nor one that was skipped.

        weights: float32 [n, G, behind]. bias: [n, 1, behind], which begins at `first`.
        """
        received = weights.sum(1, keepdim=True).sub_(bias)  # inf where it was skipped
        least = received[:, :, :-1].argmin(2, keepdim=True) + first
        self.bias.view(len(least), 2, self.ring).scatter_(2, least.expand(-1, 2, -1), -torch.inf)
