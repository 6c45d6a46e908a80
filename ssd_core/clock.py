"""How long a drawing takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass
class Timing:
    """Seconds of each part; what `generate`'s on_row takes is in none of them.

    prefill: reading prompts, and tokens that are kept from a start, up to the first that is drawn.
    decode: from the first token that is drawn to the end of the loop.
    pictures: turning tokens into pictures.
    """

    prefill: float = 0.0
    decode: float = 0.0
    pictures: float = 0.0


class Clock:
    """Adds up a drawing's seconds, with the device's work done."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.timing = device, Timing()
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part of the timing."""
        before, self.last = self.last, self.now()
        setattr(self.timing, part, getattr(self.timing, part) + self.last - before)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing meanwhile."""
        begun = self.now()
        try:
            yield
        finally:
            self.last += self.now() - begun

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
