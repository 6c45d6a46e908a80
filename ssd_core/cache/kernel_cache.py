"""A drawing's slots as the kernel sees them, and whether the kernel works here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.base import Geometry
from ..policies import H2O
from .cache import SlotCache
from .offloaded import OffloadedSlots
from .ranked import RankedSlots
from .slots import Slots
from .storage import KV_DTYPES, LARGEST, QuantizedStorage, Storage

if TYPE_CHECKING:
    from .kernel import Tiling

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CLOSE = 0.05  # what differs by less came of the same attention, in any of these
STEPS = 3  # of the trial


class KernelCache:
    """Does what a SlotCache does, over the same slots, with a kernel that takes all pairs of a layer at once.

    `advance`, before each step, is the host's part; `attend` is launches alone, on tensors that stay where they are, so
    that a CUDA graph can hold it once a first step has compiled the kernel. The kernel knows slots by their addresses:
    none may be replaced while this is in use.
    """

    def __init__(self, cache: SlotCache, tiling: Tiling | None = None) -> None:
        """For a cache that `is_known`. tiling: how launches divide their work; as suits the device if not given."""
        from .kernel import NUMBERS, Kernel  # Triton need not be there, and takes a while to import

        geometry, device, layers = cache.geometry, torch.device(cache.device), list(chain(*cache.layers))
        alike = [[(group.keep, group.prompt) for group in groups] for groups in cache.groups]
        kinds = {kind: number for number, kind in enumerate(dict.fromkeys(chain(*alike)))}
        self.of_kind: list[list[Slots]] = [[] for _ in kinds]
        for slots, kind in zip(layers, chain(*alike), strict=True):
            self.of_kind[kinds[kind]].append(slots)
        # heads with the most slots first: they take longest, and the others can fill the gaps at the end
        tables = [
            torch.cat(
                [
                    table_of(slots, group.pairs, kinds[kind])
                    for slots, group, kind in sorted(zip(*own, strict=True), key=lambda each: -each[1].keep.slots)
                ]
            )
            for own in zip(cache.layers, cache.groups, alike, strict=True)
        ]
        self.tables = torch.stack(tables).to(device).unbind()
        pairs, most = len(tables[0]), max(slots.keep.slots for slots in layers)
        self.kernel = Kernel(
            geometry,
            pairs,
            most,
            largest=LARGEST[cache.kind] if cache.kind else 0.0,
            scored=any(isinstance(slots, RankedSlots) and slots.scores for slots in layers),
            tiling=tiling or tiling_for(geometry, pairs, most, device),
            device=device,
        )
        storage = layers[0].storage
        self.stored = storage.numbers if isinstance(storage, QuantizedStorage) else storage.kv
        rows, on_gpu = pairs // geometry.kv_heads, device.type == "cuda"
        self.answers = torch.empty(rows, 1, geometry.heads, geometry.head_dim, dtype=cache.dtype, device=device)
        # A row for each step: the host may be steps ahead of the device, and what is still to be read must not change.
        self.to_come = torch.empty(geometry.tokens, len(kinds), NUMBERS, dtype=torch.int32, pin_memory=on_gpu)
        self.state = torch.empty(len(kinds), NUMBERS, dtype=torch.int32, device=device)
        self.step = 0

    @property
    def nbytes(self) -> int:
        """What is held on the device beside the slots."""
        held = (self.answers, self.state, *self.tables)
        return self.kernel.nbytes + sum(part.nbytes for part in held)

    def advance(self) -> None:
        """Make room for the newest token of every row. Before each step, of which there are as many as tokens."""
        places = []
        for own in self.of_kind:
            slot, *_ = [slots.next_slot() for slots in own]  # each may have to rank
            places.append((slot, own[0].held, own[0].next_query()))
        row = self.to_come[self.step]
        row[:, :3] = torch.tensor(places)
        row.view(torch.float32)[:, 3] = torch.tensor([own[0].unit for own in self.of_kind])
        self.state.copy_(row, non_blocking=True)
        self.step += 1

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """As SlotCache.attend; the next layer overwrites the answers."""
        self.kernel(qkv.contiguous(), self.answers, self.stored, self.tables[layer], self.state)
        return self.answers


def addresses(part: Tensor) -> Tensor:
    """Where each pair's part of a tensor [n, ...] begins: int64 [n], 0 where it is empty."""
    first = torch.arange(len(part)) * (part.stride(0) * part.itemsize) + part.data_ptr()
    return first if part.numel() else torch.zeros_like(first)


def table_of(slots: Slots, pairs: Sequence[int], kind: int) -> Tensor:
    """What the kernel must know of these slots' pairs: int64 [n, FIELDS]."""
    nothing = torch.empty(2, len(pairs), 0)
    scales = slots.storage.scale if isinstance(slots.storage, QuantizedStorage) else nothing
    seen = (slots.score, slots.queries) if isinstance(slots, RankedSlots) else nothing
    parts = map(addresses, chain(slots.kv, scales, seen))
    return torch.stack([*parts, torch.tensor(pairs), torch.full((len(pairs),), kind)], 1)


def tiling_for(geometry: Geometry, pairs: int, slots: int, device: torch.device) -> Tiling:
    """How to divide work on this device. The processor, where only tests run the kernel, is one multiprocessor."""
    from .kernel import Tiling

    on_gpu = device.type == "cuda"
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 1
    return Tiling.of(pairs * geometry.heads // geometry.kv_heads, slots, geometry.head_dim, multiprocessors)


def kernel_cache_for(cache: SlotCache) -> KernelCache | None:
    """The cache's slots with the kernel, where it is known to work: on a GPU that Triton compiles for, and for slots
    that neither grow nor skip tokens."""
    device, geometry = torch.device(cache.device), cache.geometry
    if device.type != "cuda" or not is_known(cache):
        return None
    sizes = (geometry.heads, geometry.kv_heads, geometry.head_dim)
    return KernelCache(cache) if works(device, cache.dtype, cache.kind, *sizes) else None


def is_known(cache: SlotCache) -> bool:
    """Whether the kernel does all that these slots do."""
    return cache.dtype in DTYPES and all(
        type(slots) in (Slots, RankedSlots, OffloadedSlots) and type(slots.storage) in (Storage, QuantizedStorage)
        for slots in chain(*cache.layers)
    )


@functools.cache
def works(
    device: torch.device, dtype: torch.dtype, kind: torch.dtype | None, heads: int, kv_heads: int, head_dim: int
) -> bool:
    """Whether the kernel can be compiled here, and answers what the plain path does, with and without splits.

    kind: what keys and values are kept in, None for `dtype`.
    """
    geometry = Geometry(1, heads, kv_heads, head_dim, 1, STEPS, 1)
    try:
        return all(agrees(device, dtype, kind, geometry, splits) for splits in (1, 2))
    except ImportError:
        return False
    except Exception as error:  # noqa: BLE001  # a compiler, a driver or a precision may be missing in any way
        reason = str(error).strip().partition("\n")[0]
        logging.getLogger(__name__).warning("The kernel does not run on %s, and is done without: %s", device, reason)
        return False


def agrees(device: torch.device, dtype: torch.dtype, kind: torch.dtype | None, geometry: Geometry, splits: int) -> bool:
    """Whether some steps of two rows with unequal prompts, whose heads all keep scores, end alike on both paths."""
    random = torch.Generator().manual_seed(0)
    kv_dtype = next(word for word, precision in KV_DTYPES.items() if precision is kind)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device, dtype)

    plain, known = (SlotCache(H2O(1.0), geometry, (3, 5), dtype, device, kv_dtype) for _ in range(2))
    both = list(zip(plain.layers[0], known.layers[0], strict=True))
    for group, pair in zip(plain.groups[0], both, strict=True):
        prompt = some(2, len(group.pairs), group.prompt - 1, geometry.head_dim)
        for slots in pair:
            slots.fill(*prompt)
    pairs = 2 * geometry.kv_heads
    cache = KernelCache(known, replace(tiling_for(geometry, pairs, STEPS, device), splits=splits))
    for _ in range(STEPS):
        qkv = some(2, 1, geometry.heads + 2 * geometry.kv_heads, geometry.head_dim)
        cache.advance()
        if not torch.allclose(plain.attend(0, qkv), cache.attend(0, qkv), rtol=0, atol=CLOSE):
            return False
    return all(
        torch.allclose(one.score, other.score, rtol=0, atol=CLOSE)
        for one, other in both
        if isinstance(one, RankedSlots) and isinstance(other, RankedSlots)
    )
