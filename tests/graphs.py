"""A stand-in for CUDA graphs on the processor, as strict as they are about what a graph holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssd_core import captured

GARBAGE = 0xFF  # as a float it is NaN, as an integer -1
READS = {f"aten::{name}" for name in ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal")}


def tensors_in(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def bytes_of(tensor: Tensor) -> Tensor:
    """All of the memory that a tensor lies in."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


@dataclass
class Operation:
    """One operation with the very tensors it was given and the ones it made."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: Any
    own: list[bool]  # of the tensors made: whether it lies in memory of its own

    def run(self) -> None:
        again = self.func(*self.args, **self.kwargs)
        for kept, new, own in zip(tensors_in(self.made), tensors_in(again), self.own, strict=True):
            if own:
                kept.copy_(new)


class Tape(TorchDispatchMode):
    """Takes down what is done while it is on, and does it again on the same tensors when it is replayed.

    A number that was read from Python stays what it was, a tensor that was put in another's place is not seen: so a
    replay shows both. As with a graph, nothing has been done when the capture ends, what was made meanwhile is garbage
    until a replay, and looking at a tensor's content is an error.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # of memory that was written to
        self.made: dict[int, Tensor] = {}
        self.replays = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        for argument, value in [
            *zip(func._schema.arguments, args, strict=False),
            *((argument, kwargs.get(argument.name)) for argument in func._schema.arguments),
        ]:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in tensors_in(value):
                    self.save(tensor)
        given = {storage_of(tensor) for tensor in tensors_in((args, kwargs))}
        made = func(*args, **kwargs)
        own = [storage_of(tensor) not in given for tensor in tensors_in(made)]
        for tensor, is_own in zip(tensors_in(made), own, strict=True):
            if is_own:
                self.made[storage_of(tensor)] = tensor
        self.operations.append(Operation(func, args, kwargs, made, own))
        return made

    def save(self, tensor: Tensor) -> None:
        place = storage_of(tensor)
        if place not in self.made and place not in self.before:
            whole = bytes_of(tensor)
            self.before[place] = whole, whole.clone()

    def undo(self) -> None:
        for whole, content in self.before.values():
            whole.copy_(content)
        for tensor in self.made.values():
            bytes_of(tensor).fill_(GARBAGE)

    def replay(self) -> None:
        assert self.operations, "nothing was captured, or it was given back"
        self.replays += 1
        for operation in self.operations:
            operation.run()

    def reset(self) -> None:
        self.operations, self.before, self.made = [], {}, {}


@dataclass
class StandIn:
    """Stands in for CudaGraphs.

    fails_after: how many operations a capture takes before it fails; None is never.
    """

    fails_after: int | None = None
    tapes: list[Tape] = field(default_factory=list)
    warmed: int = 0

    def warm_up(self, work: Callable[[], object]) -> None:
        self.warmed += 1
        work()

    def capture(self, work: Callable[[], object]) -> Tape:
        tape = Tape() if self.fails_after is None else Failing(self.fails_after)
        self.tapes.append(tape)
        try:
            with tape:
                work()
        finally:
            tape.undo()
        return tape


class Failing(Tape):
    """Fails in the middle, as a device without enough memory does."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __torch_dispatch__(self, *given: Any) -> Any:
        if len(self.operations) == self.after:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB.")
        return super().__torch_dispatch__(*given)


def stand_in(monkeypatch: pytest.MonkeyPatch, warm_up: int = captured.WARM_UP, **how: Any) -> StandIn:
    """Have steps captured by a stand-in."""
    graphs = StandIn(**how)
    monkeypatch.setattr(captured, "graphs_on", lambda _: graphs)
    monkeypatch.setattr(captured, "WARM_UP", warm_up)
    monkeypatch.setattr(captured, "kernel_cache_for", lambda _: None)  # the processor's is no operation of torch
    return graphs


class Reads(TorchDispatchMode):
    """Counts what makes the processor wait for a device: looking at a tensor's content. `during` says where to look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.found: list[str] = []
        self.looks = False
        for name in ("tolist", "cpu", "numpy", "item", "__bool__", "__int__", "__float__", "__index__"):
            plain = getattr(Tensor, name)

            def noted(tensor: Tensor, *given: Any, _name: str = name, _plain: Any = plain, **named: Any) -> Any:
                self.note(_name)
                return _plain(tensor, *given, **named)

            monkeypatch.setattr(Tensor, name, noted)

    def note(self, name: str) -> None:
        if self.looks:
            self.found.append(name)

    @contextmanager
    def during(self) -> Iterator[None]:
        self.looks = True
        try:
            yield
        finally:
            self.looks = False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func._schema.name in READS:
            self.note(func._schema.name)
        return func(*args, **(kwargs or {}))
