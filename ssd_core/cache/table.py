"""What a kernel must know of a layer's slots: where each pair's lie, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from .pairs import Alike
from .ranked import RankedSlots
from .slots import Slots
from .storage import QuantizedStorage

# Of a pair, int64: addresses of its keys, values, their scales, scores and queries; its number; its kind.
FIELDS, NUMBER = 8, 6


def table_of_layer(layer: Sequence[Slots], groups: Sequence[Alike], kinds: Sequence[int]) -> Tensor:
    """A row for each pair of a layer, int64 [pairs, FIELDS].

    Those with the most slots come first: they take longest, and the others can fill the gaps at the end."""
    parts = sorted(zip(layer, groups, kinds, strict=True), key=lambda part: -part[0].keep.slots)
    return torch.cat([table_of(slots, group.pairs, kind) for slots, group, kind in parts])


def table_of(slots: Slots, pairs: Sequence[int], kind: int) -> Tensor:
    """Of pairs that keep alike: int64 [n, FIELDS], on the processor, or nowhere for slots that are only planned."""
    on = "meta" if slots.kv.is_meta else "cpu"
    nothing = torch.empty(2, len(pairs), 0, device=on)
    scales = slots.storage.scale if isinstance(slots.storage, QuantizedStorage) else nothing
    seen = (slots.score, slots.queries) if isinstance(slots, RankedSlots) else nothing
    parts = map(addresses, chain(slots.kv, scales, seen))
    about = torch.tensor(pairs, device=on), torch.full((len(pairs),), kind, device=on)
    return torch.stack([*parts, *about], 1)


def addresses(part: Tensor) -> Tensor:
    """Where each pair's part of a tensor [n, ...] begins: int64 [n], 0 where it is empty."""
    first = (
        torch.arange(len(part), device="meta" if part.is_meta else "cpu") * (part.stride(0) * part.itemsize)
        + part.data_ptr()
    )
    return first if part.numel() else torch.zeros_like(first)
