"""A drawing's slots for a CUDA graph, in which every shape is always the same."""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import SlotCache
from .fixed import FixedCache
from .ranked import RankedSlots
from .slots import Slots


class MaskedCache(FixedCache):
    """Attends all slots, with a mask over those that are still empty.

    bias: of each kind's slots, one kind after the other: 0, or -inf where a slot is empty, [slots of all kinds].
    slot, query, unit: for each kind, where the newest token goes, int64 [kinds]; where its query goes, int64 [kinds];
        and the unit of its attention scores, float32 [kinds].
    """

    def __init__(self, cache: SlotCache) -> None:
        super().__init__(cache)
        self.places = torch.zeros(len(self.sizes), 2, dtype=torch.int64, device=cache.device)
        self.slot, self.query = self.places.unbind(1)
        self.unit = self.state.view(torch.float32)[:, 3]
        self.bias = torch.full((sum(self.sizes),), -torch.inf, dtype=cache.dtype, device=cache.device)
        self.of_kind = self.bias.split(self.sizes)
        firsts = [sum(self.sizes[:kind]) for kind in range(len(self.sizes))]
        self.first = torch.tensor(firsts, device=cache.device)
        for layer, own in zip(cache.layers, self.kinds, strict=True):
            for slots, kind in zip(layer, own, strict=True):
                self.of_kind[kind][: slots.held] = 0
                for part in slots.storage.parts:  # what was never written may be NaN, which no mask hides
                    part[:, :, slots.held :] = 0

    @property
    def about(self) -> object:
        return "masked", self.cache.kind, self.cache.groups

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        if layer == 0:
            self.places.copy_(self.state[:, 0:3:2])
            self.bias.index_fill_(0, self.first + self.slot, 0)
        order = self.cache.orders[layer]
        order.gather(qkv)
        for slots, kind, (q, kv, answer) in zip(self.cache.layers[layer], self.kinds[layer], order.groups, strict=True):
            slots.storage.fill(self.slot[kind : kind + 1], kv[:, :, None])
            weights = slots.storage.attend(q, slots.keep.slots, answer, self.of_kind[kind][None, None])
            self.observe(slots, kind, q, weights)
        return order.answers()

    def observe(self, slots: Slots, kind: int, q: Tensor, weights: Tensor) -> None:
        """As `put` and `observe` of ranked slots: queries [n, G, D] and their attention rows, float32 [n, G, slots]."""
        if not isinstance(slots, RankedSlots):
            return
        if slots.ranking.queries:
            slots.queries.index_copy_(1, self.query[kind : kind + 1], q[:, None])
        if slots.scores:
            slots.score.index_fill_(1, self.slot[kind : kind + 1], 0)
            slots.score.addcmul_(weights.sum(1), self.unit[kind])
