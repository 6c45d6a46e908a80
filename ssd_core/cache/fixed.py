"""A drawing's slots as a compiled step sees them: what changes from step to step stands in tensors."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from ..errors import UserError
from .attention import attend_slots
from .cache import SlotCache
from .offloaded import OffloadedSlots
from .ranked import RankedSlots
from .slots import Slots
from .storage import Storage


class FixedCache:
    """Does what a SlotCache does, over the same slots, in operations that are the same at every step.

    `advance` says in numbers where the newest token goes; `attend` is for a compiler, which takes every number it meets
    for a constant, and a tensor's length only where told otherwise.

    slot, query, unit: for each kind of slots, those whose numbers are the same: where the newest token goes, int64
        [kinds]; where its query goes, int64 [kinds]; and the unit of its attention scores, float32 [kinds].
    held: for each kind, a tensor without elements whose first length is how many slots are filled.
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
        self.layers, self.orders = cache.layers, cache.orders
        alike = [[(group.keep, group.prompt) for group in groups] for groups in cache.groups]
        kinds = list(dict.fromkeys(kind for layer in alike for kind in layer))
        self.kinds = [[kinds.index(kind) for kind in layer] for layer in alike]
        self.of_kind: list[list[Slots]] = [[] for _ in kinds]
        for slots, own in zip(self.layers, self.kinds, strict=True):
            for each, kind in zip(slots, own, strict=True):
                self.of_kind[kind].append(each)
        self.rulers = [torch.empty(slots[0].keep.slots, 0) for slots in self.of_kind]
        self.held = self.rulers
        device = self.layers[0][0].kv.device
        self.places = torch.zeros(len(kinds), 2, dtype=torch.int64, device=device)
        self.slot, self.query = self.places.unbind(1)
        self.unit = torch.zeros(len(kinds), device=device)

    def advance(self) -> None:
        """Make room for the newest token of every row. Before each step."""
        places = [[(slots.next_slot(), slots.next_query()) for slots in own] for own in self.of_kind]
        self.places.copy_(torch.tensor([first for first, *_ in places]))
        self.unit.copy_(torch.tensor([own[0].unit for own in self.of_kind]))
        self.held = [ruler[: own[0].held] for ruler, own in zip(self.rulers, self.of_kind, strict=True)]

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """As SlotCache.attend."""
        order, answers = self.orders[layer], []
        brought = order.split(qkv.reshape(-1, qkv.shape[-1]).index_select(0, order.there))
        for (q, kv), slots, kind in zip(brought, self.layers[layer], self.kinds[layer], strict=True):
            slot, held = self.slot[kind : kind + 1], self.held[kind].shape[0]
            torch._check(held >= 1)  # all that the compiler may know of it
            torch._check(held <= slots.keep.slots)
            slots.kv.index_copy_(2, slot, kv[:, :, None])
            weights, answer = attend_slots(q, slots.kv[0, :, :held], slots.kv[1, :, :held])
            answers.append(answer)
            if isinstance(slots, RankedSlots):
                if slots.ranking.queries:
                    slots.queries.index_copy_(1, self.query[kind : kind + 1], q[:, None])
                if slots.scores:
                    slots.score.index_fill_(1, slot, 0)
                    slots.score[:, :held] += weights.sum(1) * self.unit[kind]
        joined = torch.cat(answers)
        return (joined if order.back is None else joined.index_select(0, order.back)).view(order.shape)
