"""A drawing's slots for a CUDA graph, in which every shape is always the same."""

from __future__ import annotations

import torch
from torch import Tensor

from .cache import SlotCache
from .fixed import FixedCache


class MaskedCache(FixedCache):
    """Attends all slots, with a mask over those that are still empty.

    bias: of each kind's slots, one kind after the other: 0, or -inf where a slot is empty, [slots of all kinds].
    """

    def __init__(self, cache: SlotCache) -> None:
        super().__init__(cache)
        self.bias = torch.full((sum(self.sizes),), -torch.inf, dtype=cache.dtype, device=cache.device)
        self.of_kind = self.bias.split(self.sizes)
        firsts = [sum(self.sizes[:kind]) for kind in range(len(self.sizes))]
        self.first = torch.tensor(firsts, device=cache.device)
        for layer, own in zip(cache.layers, self.kinds, strict=True):
            for slots, kind in zip(layer, own, strict=True):
                self.of_kind[kind][: slots.held] = 0
                for part in slots.storage.parts:  # what was never written may be NaN, which no mask hides
                    part[:, :, slots.held :] = 0

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        if layer == 0:
            self.places.copy_(self.numbers[:, :2])
            self.bias.index_fill_(0, self.first + self.slot, 0)
        order = self.cache.orders[layer]
        order.gather(qkv)
        for slots, kind, (q, kv, answer) in zip(self.cache.layers[layer], self.kinds[layer], order.groups, strict=True):
            slots.storage.fill(self.slot[kind : kind + 1], kv[:, :, None])
            weights = slots.storage.attend(q, slots.keep.slots, answer, self.of_kind[kind][None, None])
            self.observe(slots, kind, q, weights)
        return order.answers()
