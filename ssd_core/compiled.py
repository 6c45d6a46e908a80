"""The step through torch.compile, for whoever draws so much that half a minute for the compiler is soon won back."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from .cache.cache import SlotCache
from .cache.fixed import FixedCache
from .errors import UserError
from .fixed import FixedStep
from .models.base import ImageModel
from .turn import Turn

NUMBERS: weakref.WeakKeyDictionary[ImageModel, int] = weakref.WeakKeyDictionary()
COUNT = itertools.count()
KNOWN: set[str] = set()
MOST_COMPILED = 256


class CompiledStep(FixedStep):
    """The turn of one drawing, compiled when the first token is drawn, or before, by a drawing of the same sizes.

    Before each call torch would check all that a compiled function depends on; with the hundred tensors of a step this
    takes a tenth of its time. All in which two drawings may differ is therefore written into one string, and that alone
    is checked.
    """

    def __init__(self, turn: Turn, cache: SlotCache) -> None:
        super().__init__(turn, cache, "compiled")
        model = turn.model
        number = NUMBERS.setdefault(model, next(COUNT))
        threads, rows, positions = torch.get_num_threads(), len(turn.x), len(model.decoder.rope.table)
        self.about = number, model.device, model.dtype, threads, rows, positions, turn.sampling, turn.stays is None
        self.key = ""

    def draw(self, fixed: FixedCache, most: int) -> int:
        fixed.advance()
        if not self.key:
            self.key = repr((self.about, fixed.about))
        if self.key in KNOWN:
            compiled_draw(self.turn, fixed, self.key)
            return 1
        with torch._dynamo.config.patch(recompile_limit=MOST_COMPILED), explain_compiler():
            compiled_draw(self.turn, fixed, self.key)
        KNOWN.add(self.key)
        return 1


def key_alone(guards: Sequence[Any]) -> list[bool]:
    """Which of the checks before a call of `compiled_draw` torch is to make."""
    return [guard.name == "key" for guard in guards]


def compiled_draw(turn: Turn, cache: FixedCache, key: str) -> None:
    """`draw`, compiled. `key` says what the compiled function may be used for again, see `CompiledStep`."""
    compiled_for(turn.model.device.type)(turn, cache, key)


@functools.cache
def compiled_for(device: str) -> Callable[[Turn, FixedCache, str], None]:
    """`draw` for a type of device. On the processor what calls the kernels is compiled as well: a step of few rows is
    over before Python has called them all."""
    options: dict[str, Any] = {"guard_filter_fn": key_alone, "cpp_wrapper": device == "cpu"}
    return torch.compile(draw, fullgraph=True, dynamic=False, options=options)


def draw(turn: Turn, cache: FixedCache, key: str) -> None:
    """What `Turn.draw` does."""
    if not key:  # what is not looked at is not checked either
        raise ValueError("a compiled step needs a key")
    turn.draw(cache)


@contextmanager
def explain_compiler() -> Iterator[None]:
    """Turn what goes wrong inside the compiler into a sentence."""
    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"The step cannot be compiled here ({reason}); compiling takes torch 2.8 or newer and a C++ compiler such "
            "as g++, so install these, or draw without compiling."
        ) from None
