"""Each rival draws in its turn, round after round, and what it took becomes a row."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from ssd_core.errors import OutOfMemoryError, UserError
from ssd_core.models.base import Geometry

from .rivals import FULL, Draw, Prompts, Rival, Run
from .table import LARGEST, Row, row_of

PROMPTS = (
    "a red circle",
    "three blue squares",
    "a ring and a cross",
    "a green diamond and a purple triangle",
    "a square left of a circle",
    "four yellow crosses on a black background",
    "a triangle on a white background",
    "an orange ring above a blue cross",
)


OUT_OF_MEMORY = (OutOfMemoryError, torch.OutOfMemoryError)


class Seat:
    """Lets one model lie on a GPU at a time, so that each has a small card to itself. The processor's may all stay."""

    def __init__(self, device: torch.device, first: Callable[[], nn.Module]) -> None:
        """first: the model that lies there already."""
        self.device = device
        self.parts: dict[Callable[[], nn.Module], list[nn.Module]] = {}  # of each model, what lies on the device
        self.refused: dict[Callable[[], nn.Module], str] = {}  # why a model has no room; it is not read again
        self.give(first)

    def give(self, model: Callable[[], nn.Module]) -> None:
        """Raises OutOfMemoryError where it has no room."""
        if self.device.type == "cpu":
            return
        if model in self.refused:
            raise OutOfMemoryError(self.refused[model])
        for other, parts in self.parts.items():
            if other is not model:
                move(parts, torch.device("cpu"))
        if model in self.parts:
            move(self.parts[model], self.device)
        else:
            try:
                self.parts[model] = [part for part in model().children() if lies_on(part, self.device)]
            except OUT_OF_MEMORY as error:
                self.refused[model] = str(error)
                raise
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)


def move(parts: Sequence[nn.Module], device: torch.device) -> None:
    for part in parts:
        part.to(device)


def lies_on(part: nn.Module, device: torch.device) -> bool:
    return any(weight.device == device for weight in part.parameters())


@dataclass
class Entry:
    """A rival and its drawings of a batch.

    largest: whether the batch is to be as large as it can be; then it shrinks until there is memory for it.
    """

    name: str
    rival: Rival
    batch: int
    largest: bool = False
    mixed: bool = False
    drawer: Draw | None = None
    runs: list[Run] = field(default_factory=list)
    peak: int | None = None

    def run(self, seed: int, seat: Seat) -> None:
        """Draw once. That memory runs out is a result."""
        try:
            seat.give(self.rival.model)
        except OUT_OF_MEMORY as error:
            print(f"{self.name}: out of memory for its weights: {error}", flush=True)
            return
        while self.batch:
            gc.collect()  # what a try before this one left when memory ran out
            try:
                self.drawer = self.drawer or self.rival.drawer(prompts(self.batch, self.mixed))
                self.runs.append(self.drawer(seed))
            except OUT_OF_MEMORY as error:
                print(f"{self.name}, {self.batch} pictures: out of memory: {error}", flush=True)
                self.drawer, self.runs = None, []
                if not self.largest:
                    return
                self.batch -= max(1, self.batch // 16)
            else:
                if seat.device.type == "cuda":
                    self.peak = max(self.peak or 0, torch.cuda.max_memory_allocated(seat.device))
                print(f"batch {self.batch}, round {seed + 1}: {self.name} {self.runs[-1].seconds:.2f} s", flush=True)
                return

    def row(self, geometry: Geometry, copy: float) -> Row:
        tokens, columns = geometry.tokens, geometry.columns
        return row_of(self.name, self.batch, self.runs, tokens, columns, copy, self.peak, self.largest)


def prompts(batch: int, mixed: bool) -> Prompts:
    return [PROMPTS[k % len(PROMPTS) if mixed else 0] for k in range(batch)]


def entries(
    known: dict[str, Rival], names: Sequence[str], batch: int | str, mixed: bool, seat: Seat, free: int | None
) -> list[Entry]:
    """Who takes part at a batch, or at the largest that fits `free` bytes.

    Who cannot plan begins with what our full cache has room for, and takes less until there is memory. On the processor
    nothing keeps it from taking more, so there it does not take part.
    """
    if batch != LARGEST:
        return [Entry(name, known[name], int(batch), mixed=mixed) for name in names]
    if free is None:
        raise UserError("How many pictures fit at most depends on a limit; give a --memory-cap.")
    prompt, found = max(prompts(len(PROMPTS), mixed), key=len), []
    seat.give(known[FULL].model)  # where a model lies is part of a plan
    for name in names:
        if seat.device.type == "cpu" and not known[name].plans:
            print(f"{name} plans no memory, and none can be kept from it on the processor: not at its largest batch.")
            continue
        found.append(Entry(name, known[name], known[name].most(prompt, free), largest=True, mixed=mixed))
    return found
