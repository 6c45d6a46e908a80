"""A drawing's slots for a step that is fixed once: what changes from step to step stands in tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .cache import SlotCache
from .ranked import RankedSlots
from .slots import Slots


class FixedCache(ABC):
    """Does what a SlotCache does, over the same slots, in operations that are the same at every step.

    `advance` says in numbers where the newest token goes, and ranks where that is due; `attend` finds them in tensors.
    They may take turns with the SlotCache's own `attend`.

    slot, query, unit: for each kind of slots, those whose numbers are the same: where the newest token goes, int64
        [kinds]; where its query goes, int64 [kinds]; and the unit of its attention scores, float32 [kinds].
    """

    def __init__(self, cache: SlotCache) -> None:
        self.cache = cache  # and not its slots, which are given back through it
        groups = [group for groups in cache.groups for group in groups]
        # those, too, that heads might have become of which none did, so that a plan can count them
        kinds = list(dict.fromkeys((keep, group.prompt) for group in groups for keep in cache.keeps_of(group)))
        self.kinds = [[kinds.index((group.keep, group.prompt)) for group in groups] for groups in cache.groups]
        self.sizes = [keep.slots for keep, _ in kinds]
        device = torch.device(cache.device)
        # Numbers wait in a row for each step, so that none is overwritten before the device has fetched it, which
        # nobody waits for. float32 holds all counts of slots exactly.
        shape, is_fetched = (cache.geometry.tokens, len(kinds), 3), device.type == "cuda"
        self.waiting = torch.zeros(shape, pin_memory=is_fetched)
        self.steps = 0
        self.numbers = torch.zeros(shape[1:], device=device)
        self.places = torch.zeros(len(kinds), 2, dtype=torch.int64, device=device)
        self.slot, self.query = self.places.unbind(1)
        self.unit = self.numbers[:, 2]

    def advance(self) -> None:
        """Make room for the newest token of every row. Before each step."""
        numbers = [(0.0, 0.0, 0.0)] * len(self.sizes)
        for layer, own in zip(self.cache.layers, self.kinds, strict=True):
            for slots, kind in zip(layer, own, strict=True):
                numbers[kind] = (slots.next_slot(), slots.next_query(), slots.unit)
        waiting = self.waiting[self.steps]
        waiting.copy_(torch.tensor(numbers))
        self.numbers.copy_(waiting, non_blocking=True)
        self.steps += 1

    @abstractmethod
    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """As SlotCache.attend, once a step for each layer, the first one first."""

    def observe(self, slots: Slots, kind: int, q: Tensor, weights: Tensor) -> None:
        """As `put` and `observe` of ranked slots: queries [n, G, D] and their attention rows, float32 [n, G, held]."""
        if not isinstance(slots, RankedSlots):
            return
        if slots.ranking.queries:
            slots.queries.index_copy_(1, self.query[kind : kind + 1], q[:, None])
        if slots.scores:
            slots.score.index_fill_(1, self.slot[kind : kind + 1], 0)
            slots.score[:, : weights.shape[2]].addcmul_(weights.sum(1), self.unit[kind])
