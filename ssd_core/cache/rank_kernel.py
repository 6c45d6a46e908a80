"""A ranking in one call, on the processor: who leaves, and where the others move."""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from ..native.build import loaded
from ..policies import SSD, Keep
from .ranked import RankedSlots, Ranking
from .storage import LARGEST, QuantizedStorage, Storage


class RankKernel:
    """Moves what some slots hold as `RankedSlots.rank` says it. It knows tensors by their addresses: none may be
    replaced while this is in use."""

    def __init__(self, slots: RankedSlots, dtypes: Sequence[torch.dtype]) -> None:
        """dtypes: of model and slots, for which kernels are compiled; they make no difference here."""
        self.dtypes, self.position = dtypes, slots.position
        self.parts = [part for part in held_by(slots) if part.numel()]  # so that they live as long as this
        halves = [2 if part.ndim == 4 else 1 for part in self.parts]  # keys and values lie side by side
        fields = (
            [part.data_ptr(), part.nbytes // (count * self.position.numel()), count]
            for part, count in zip(self.parts, halves, strict=True)
        )
        self.table = (ctypes.c_int64 * (3 * len(self.parts)))(*chain(*fields))
        self.sizes = [len(self.parts), *self.position.shape, slots.ranking.refresh, slots.keep.pinned]

    def __call__(self, priority: Tensor) -> None:
        """priority: of each slot's token, float32 [n, S], contiguous."""
        if priority.is_meta:  # nothing but memory is counted
            return
        function = loaded(*self.dtypes).rank_pairs
        function(priority.data_ptr(), self.position.data_ptr(), self.table, *self.sizes, torch.get_num_threads())


def rank_kernel_for(slots: RankedSlots, dtypes: Sequence[torch.dtype]) -> RankKernel | None:
    """A kernel for rankings of these slots, where one is known to work."""
    return RankKernel(slots, dtypes) if slots.kv.is_meta or works(*dtypes) else None


@functools.cache
def works(dtype: torch.dtype, stored: torch.dtype) -> bool:
    """Whether slots stand after a ranking as they do operation by operation."""
    plain, known = (some_slots(dtype, stored) for _ in range(2))
    known.kernel = RankKernel(known, (dtype, stored))
    for slots in (plain, known):
        slots.rank()
    if all(torch.equal(*both) for both in zip(held_by(plain), held_by(known), strict=True)):
        return True
    logging.getLogger(__name__).warning("The kernel for rankings is done without on this processor: it errs")
    return False


def some_slots(dtype: torch.dtype, stored: torch.dtype) -> RankedSlots:
    """Full slots for a trial, some of whose tokens are ranked alike, always the same."""
    random = torch.Generator().manual_seed(0)
    ranking, pairs, slots = Ranking(SSD(literal=True), 5, 1.0, 0, 4, 1), 3, 12
    sizes = pairs, slots, 4, dtype, "cpu"
    room = torch.empty(pairs * slots, 4, dtype=dtype)
    storage = QuantizedStorage(stored, room, *sizes) if stored in LARGEST else Storage(*sizes)
    filled = RankedSlots(ranking, Keep(slots, 2, ranked=True), storage, dtype)
    filled.stored = slots
    for part in held_by(filled):
        part.copy_(torch.randint(0, 9, part.shape, generator=random))
    filled.position.copy_(torch.rand(pairs, slots, generator=random).argsort(1))
    return filled


def held_by(slots: RankedSlots) -> list[Tensor]:
    """What a ranking moves; scores are empty where slots keep none."""
    return [*slots.storage.parts, slots.position, slots.score]
