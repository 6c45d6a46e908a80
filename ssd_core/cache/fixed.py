"""A drawing's slots for a step that is fixed once: what changes from step to step stands in tensors."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import chain
from struct import Struct

import torch
from torch import Tensor

from .cache import SlotCache
from .slots import Slots

KIND = Struct("iiif")  # the newest token's slot; the slots filled; its query's place; the unit of scores
NUMBERS = KIND.size // torch.int32.itemsize  # of each kind


class FixedCache(ABC):
    """Does what a SlotCache does, over the same slots, in operations that are the same at every step.

    `advance` says in numbers where the newest token goes, and ranks where that is due; `attend` finds them in a tensor.
    They may take turns with the SlotCache's own `attend`.

    kinds: which kind each group's slots are of, [layers][groups]. The numbers of a kind's slots are the same.
    states: the numbers of this step, and of those that were told with it, int32 [turns, kinds, NUMBERS] as KIND has
        them. state: those of this step.
    """

    def __init__(self, cache: SlotCache, turns: int = 1) -> None:
        """turns: the most that are told at once; one where the host may be ahead of the device."""
        self.cache = cache  # and not its slots, which are given back through it
        groups = [group for groups in cache.groups for group in groups]
        # those, too, that heads might have become of which none did, so that a plan can count them
        kinds = list(dict.fromkeys((keep, group.prompt) for group in groups for keep in cache.keeps_of(group)))
        self.kinds = [[kinds.index((group.keep, group.prompt)) for group in groups] for groups in cache.groups]
        self.sizes = [keep.slots for keep, _ in kinds]
        self.states = torch.zeros(turns, len(kinds), NUMBERS, dtype=torch.int32, device=cache.device)
        self.state = self.states[0]
        # A row for each step, where the host may be ahead of the device: what is still to be read must not change.
        self.ahead = may_be_ahead_of(self.state.device)
        rows = cache.geometry.tokens if self.ahead else 0
        self.to_come = torch.zeros(rows, *self.state.shape, dtype=torch.int32, pin_memory=self.state.is_cuda)
        written = self.to_come if self.ahead else self.states
        self.packed = (ctypes.c_char * written.nbytes).from_address(written.data_ptr())
        self.row = Struct(KIND.format * len(kinds))
        self.steps = 0

    def advance(self, most: int = 1) -> int:
        """Make room for the newest token of every row: before each step, of which there are as many as tokens; or
        before some of them, `most` at most, as far as can be told ahead. How many these are."""
        numbers: list[tuple[float, ...]] = [(0, 0, 0, 0.0)] * len(self.sizes)
        leaders: dict[int, Slots] = {}  # one of each kind, where there is one
        for layer, own in zip(self.cache.layers, self.kinds, strict=True):
            for slots, kind in zip(layer, own, strict=True):
                numbers[kind], leaders[kind] = numbers_of_next(slots), slots
        if self.state.is_meta:  # nothing but memory is counted
            return 1
        self.tell(self.steps if self.ahead else 0, numbers)
        if self.ahead:
            self.state.copy_(self.to_come[self.steps], non_blocking=True)
        self.steps += 1
        turns = min(most, len(self.states), 1 + min(slots.foreseen for slots in leaders.values()))
        for turn in range(1, turns):
            for kind, slots in leaders.items():
                numbers[kind] = numbers_of_next(slots)
            self.tell(turn, numbers)
        if turns > 1:
            for layer, own in zip(self.cache.layers, self.kinds, strict=True):
                for slots, kind in zip(layer, own, strict=True):
                    slots.follow(leaders[kind])
        return turns

    def tell(self, row: int, numbers: Sequence[tuple[float, ...]]) -> None:
        """Write what changes from step to step, of each kind, where it is read."""
        self.row.pack_into(self.packed, self.row.size * row, *chain(*numbers))

    @property
    @abstractmethod
    def about(self) -> object:
        """What its operations depend on beside model and rows: they are the same where the words for this are."""

    @abstractmethod
    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """As SlotCache.attend, once a step for each layer, the first one first."""


def numbers_of_next(slots: Slots) -> tuple[float, ...]:
    """What KIND takes of these slots, once there is room for the next token."""
    return slots.next_slot(), slots.held, slots.next_query(), slots.unit


def may_be_ahead_of(device: torch.device) -> bool:
    """Whether the host goes on while the device still works."""
    return device.type not in ("cpu", "meta")
