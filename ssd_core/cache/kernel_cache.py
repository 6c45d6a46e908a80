"""A drawing's slots as a kernel sees them, and whether there is a kernel that works here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry
from ..models.placement import first_line
from ..policies import H2O
from .cache import SlotCache
from .fixed import FixedCache
from .offloaded import OffloadedSlots
from .ranked import RankedSlots
from .slots import Slots
from .storage import KV_DTYPES, QuantizedStorage, Storage
from .table import table_of_layer

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CLOSE = 0.05  # what differs by less came of the same attention, in any of these
STEPS = 3  # of the trial


class Kernel(Protocol):
    """What takes all pairs of a layer at once."""

    @property
    def nbytes(self) -> int:
        """What it holds on the device."""

    @property
    def about(self) -> object:
        """What its operations depend on, beside the precisions."""

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        """Store the newest token of every pair, and answer its queries."""


# how one is made: for a cache, so many pairs of a layer, the most slots of a pair, and whether any pair keeps scores
MakeKernel = Callable[[SlotCache, int, int, bool], Kernel]


class KernelCache(FixedCache):
    """Attends with a kernel, which knows slots by their addresses: none may be replaced while this is in use.

    On a GPU, `attend` is launches alone, so that a CUDA graph can hold it once a first step has compiled the kernel.
    """

    def __init__(self, cache: SlotCache, make: MakeKernel, turns: int = 1) -> None:
        """For a cache that `is_known`. turns: as FixedCache has it."""
        super().__init__(cache, turns)
        geometry, device, layers = cache.geometry, torch.device(cache.device), list(chain(*cache.layers))
        tables = [table_of_layer(*own) for own in zip(cache.layers, cache.groups, self.kinds, strict=True)]
        self.tables = torch.stack(tables).to(device).unbind()
        pairs, most = len(tables[0]), max(slots.keep.slots for slots in layers)
        scored = any(isinstance(slots, RankedSlots) and slots.scores for slots in layers)
        self.kernel = make(cache, pairs, most, scored)
        shape = pairs // geometry.kv_heads, 1, geometry.heads, geometry.head_dim
        self.answers = torch.empty(shape, dtype=cache.dtype, device=device)

    @property
    def nbytes(self) -> int:
        """What is held on the device beside the slots."""
        held = (self.answers, self.states, *self.tables)
        return self.kernel.nbytes + sum(part.nbytes for part in held)

    @property
    def about(self) -> object:
        """Not which pairs keep alike: that stands in the tables."""
        return "kernel", self.cache.kind, len(self.sizes), self.kernel.about

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """As SlotCache.attend; the next layer overwrites the answers."""
        self.kernel(qkv.contiguous(), self.answers, self.tables[layer], self.state)
        return self.answers


def kernel_cache_for(cache: SlotCache) -> KernelCache | None:
    """The cache's slots with a kernel, where one is known to work."""
    return KernelCache(cache, kernels_on(torch.device(cache.device))[0]) if has_kernel(cache) else None


def has_kernel(cache: SlotCache) -> bool:
    """Whether a kernel is known to work for these slots."""
    return is_known(cache) and not why_no_kernel(torch.device(cache.device), cache.geometry, cache.dtype, cache.kind)


def is_known(cache: SlotCache) -> bool:
    """Whether kernels do all that these slots do, which neither grow nor skip tokens then."""
    return cache.dtype in DTYPES and all(
        type(slots) in (Slots, RankedSlots, OffloadedSlots) and type(slots.storage) in (Storage, QuantizedStorage)
        for slots in chain(*cache.layers)
    )


def kernels_on(device: torch.device) -> list[MakeKernel]:
    """The kernel for a type of device; behind it the same as it is at other sizes, where that is another way.

    Raises UserError where there is none, and ImportError where Triton is missing.
    """
    if device.type == "cuda":
        from .triton_kernel import TritonKernel  # Triton need not be there, and takes a while to import

        return [TritonKernel, functools.partial(TritonKernel, splits=2)]
    if device.type == "cpu":
        from .cpp_kernel import CppKernel

        return [CppKernel]
    raise UserError(f"there is none for {device.type}")


def why_no_kernel(
    device: torch.device, geometry: Geometry, dtype: torch.dtype, kind: torch.dtype | None = None
) -> str | None:
    """Why no kernel works for these sizes; None where one does.

    dtype, kind: of the model, and what keys and values are kept in, None for the same.
    """
    if dtype not in DTYPES:
        return f"there is none for {str(dtype).removeprefix('torch.')}"
    return failure(device, dtype, kind, geometry.heads, geometry.kv_heads, geometry.head_dim)


@functools.cache
def failure(
    device: torch.device, dtype: torch.dtype, kind: torch.dtype | None, heads: int, kv_heads: int, head_dim: int
) -> str | None:
    """Why the kernel for a device does not work; None where it can be compiled and answers what the plain path does."""
    geometry = Geometry(1, heads, kv_heads, head_dim, 1, STEPS, 1)
    try:
        if all(agrees(device, dtype, kind, geometry, make) for make in kernels_on(device)):
            return None
        reason = "it gives wrong answers"
    except ImportError:
        return "Triton is not installed"
    except Exception as error:  # noqa: BLE001  # a compiler, a driver or a precision may be missing in any way
        reason = first_line(error).rstrip(".")
    logging.getLogger(__name__).warning(
        "The attention kernel does not run on %s, and is done without: %s", device, reason
    )
    return reason


def agrees(
    device: torch.device, dtype: torch.dtype, kind: torch.dtype | None, geometry: Geometry, make: MakeKernel
) -> bool:
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
    cache = KernelCache(known, make)
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
