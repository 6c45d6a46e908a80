"""A drawing's slots for a compiler, which knows lengths that change."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from ..errors import UserError
from .attention import attend_slots
from .cache import SlotCache
from .fixed import FixedCache
from .offloaded import OffloadedSlots
from .ranked import RankedSlots
from .slots import Slots
from .storage import Storage


class SlicedCache(FixedCache):
    """Attends the slots that are filled.

    held: for each kind of slots, a tensor without elements whose first length is how many are filled: a compiler takes
        every number it meets for a constant, and a tensor's length only where told otherwise.
    """

    def __init__(self, cache: SlotCache) -> None:
        """Raises UserError for slots that do more than a compiled step knows of."""
        kinds_known = all(
            type(slots) in (Slots, RankedSlots, OffloadedSlots) and type(slots.storage) is Storage
            for slots in chain(*cache.layers)
        )
        if not kinds_known:
            raise UserError(
                "A compiled step knows neither a kv_dtype but auto nor the methods diagonal and headkv; draw without "
                "compiling."
            )
        super().__init__(cache)
        self.rulers = [torch.empty(size, 0) for size in self.sizes]
        self.held = list(self.rulers)

    def advance(self) -> None:
        super().advance()
        for layer, own in zip(self.cache.layers, self.kinds, strict=True):
            for slots, kind in zip(layer, own, strict=True):
                self.held[kind] = self.rulers[kind][: slots.held]

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        if layer == 0:
            self.places.copy_(self.numbers[:, :2])
        order, answers = self.cache.orders[layer], []
        brought = order.split(qkv.reshape(-1, qkv.shape[-1]).index_select(0, order.there))
        for (q, kv), slots, kind in zip(brought, self.cache.layers[layer], self.kinds[layer], strict=True):
            held = self.held[kind].shape[0]
            torch._check(held >= 1)  # all that the compiler may know of it
            torch._check(held <= slots.keep.slots)
            slots.storage.fill(self.slot[kind : kind + 1], kv[:, :, None])
            weights, answer = attend_slots(q, slots.kv[0, :, :held], slots.kv[1, :, :held])
            answers.append(answer)
            self.observe(slots, kind, q, weights)
        joined = torch.cat(answers)
        return (joined if order.back is None else joined.index_select(0, order.back)).view(order.shape)
