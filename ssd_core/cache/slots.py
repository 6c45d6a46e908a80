"""Slots: where the keys and values live of all (row, head) pairs of a layer that keep alike."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from ..policies.base import Keep
from .storage import Storage


class Slots:
    """The slots of n (row, kv head) pairs of one layer; when they are full, the oldest token that is not pinned leaves.

    Their storage holds keys and values side by side, so that one write stores both. Keys are stored after RoPE, so a
    slot is overwritten in place and nothing ever moves. The pairs' rows have prompts of one length, so all pairs always
    hold equally many tokens: the filled slots are a prefix, and no mask is needed.
    """

    def __init__(self, keep: Keep, storage: Storage) -> None:
        self.keep = keep
        self.storage = storage
        self.stored = 0  # tokens that have come so far
        self.unit = 1.0  # of attention scores, for slots that keep some
        self.grown = 0  # tokens that were all held before these slots took them over

    @property
    def kv(self) -> Tensor:
        """Keys and values as they are stored, [2, n, S, D]."""
        return self.storage.kv

    @property
    def held(self) -> int:
        """How many slots are filled."""
        return min(self.stored, self.keep.slots)

    @property
    def most(self) -> int:
        """How many tokens of a pair are held at most in the end."""
        return self.keep.slots

    @property
    def kv_bytes(self) -> int:
        return self.storage.nbytes

    def filled_bytes(self, stored: int) -> int:
        """Bytes of keys and values in filled slots once so many tokens have come in all, or when they had."""
        held = stored if stored <= self.grown else min(stored, self.most)
        return held * (self.kv_bytes // self.keep.slots)

    @property
    def bookkeeping_bytes(self) -> int:
        return 0

    @property
    def host_bytes(self) -> int:
        """Bytes kept in the host's memory, and not counted elsewhere."""
        return 0

    def fill(self, keys: Tensor, values: Tensor) -> None:
        """Store a prompt's tokens [n, T, D]; of a prompt longer than the slots, the pinned ones and the newest."""
        kept, slots = self.places(keys.shape[1])
        self.storage.fill(slots, torch.stack([keys[:, kept], values[:, kept]]))
        self.stored = keys.shape[1]

    def places(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Which of so many tokens are held where no other slots are filled, int64 [held], and in which slots."""
        size, pinned = self.keep.slots, self.keep.pinned
        kept = torch.arange(tokens, device=self.kv.device)
        if tokens > size:
            kept = torch.cat([kept[:pinned], kept[tokens - (size - pinned) :]])
        return kept, torch.where(kept < size, kept, pinned + (kept - pinned) % max(size - pinned, 1))

    def attend(self, q: Tensor, kv: Tensor, output: Tensor) -> None:
        """Store the newest token, kv [2, n, D], then answer its queries q [n, G, D] in `output` [n, G, D]."""
        self.put(self.next_slot(), kv)
        self.observe(q, self.storage.attend(q, self.held, output))

    def next_slot(self) -> int:
        """The slot of a token that comes, which counts as stored from now on: a free one, or else the oldest's."""
        size, pinned = self.keep.slots, self.keep.pinned
        slot = self.stored if self.stored < size else pinned + (self.stored - pinned) % (size - pinned)
        self.stored += 1
        return slot

    @property
    def foreseen(self) -> int:
        """How many more tokens get slots of which can be told now, before anything else changes."""
        return sys.maxsize

    def follow(self, leader: Slots) -> None:
        """Count tokens that came, no more than were `foreseen`, as slots of the same kind did when they were asked for
        each `next_slot`."""
        self.stored, self.unit = leader.stored, leader.unit

    def next_query(self) -> int:
        """Where the newest query goes, for slots that keep some."""
        return 0

    def put(self, slot: int, kv: Tensor) -> None:
        """Store a token, kv [2, n, D]."""
        self.storage.put(slot, kv)

    def observe(self, q: Tensor, weights: Tensor) -> None:
        """Look at the newest queries [n, G, D] and their attention rows, float32 [n, G, held]. The oldest leave
        whatever these say."""

    def positions(self) -> Tensor:
        """int32 [n, held]: the position each filled slot's token came from."""
        pinned = self.keep.pinned
        slot = torch.arange(self.held, dtype=torch.int32, device=self.kv.device)
        if self.stored > self.keep.slots:
            age = (self.stored - 1 - slot) % (self.keep.slots - pinned)
            slot = slot.where(slot < pinned, self.stored - 1 - age)
        return slot.expand(self.kv.shape[1], -1)
