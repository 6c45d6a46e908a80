"""Draw with a progress bar, and stop on Ctrl-C without losing what was drawn."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..loop import Result, generate
from ..models.base import ImageModel
from ..policies import Policy
from ..tokens import UNDRAWN
from .console import ERR


def draw(model: ImageModel, prompts: Sequence[str], policy: Policy, label: str, **settings: Any) -> tuple[Result, bool]:
    """`generate` with a bar of its rows, and whether Ctrl-C came, which ends it after the row; a second one at once."""
    rows = model.geometry.rows
    with progress() as bar, stop_on_interrupt() as stop:
        task = bar.add_task(label, total=rows)

        def on_row(row: int, *_: object) -> bool:
            bar.update(task, completed=row + 1)
            return stop.is_set()

        result = generate(model, prompts, policy, on_row=on_row, **settings)
    drawn = rows_drawn(model, result)
    if drawn < rows:
        ERR.print(f"Stopped after row {drawn} of {rows}; what was not drawn is grey.", style="yellow")
    return result, stop.is_set()


def rows_drawn(model: ImageModel, result: Result) -> int:
    """How many rows of the grid each image has."""
    undrawn = (result.tokens == UNDRAWN).any(0)
    return int(undrawn.byte().argmax()) // model.geometry.columns if undrawn.any() else model.geometry.rows


def progress(unit: str = "rows") -> Progress:
    """A bar on standard error, if somebody watches it."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit)
    return Progress(*columns, TimeRemainingColumn(), console=ERR, transient=True, disable=not ERR.is_terminal)


@contextmanager
def stop_on_interrupt() -> Iterator[Event]:
    """An event that the first Ctrl-C sets; the next one interrupts as usual. Where Ctrl-C is ignored, as a shell has it
    of what it starts in the background, it stays so."""
    stop = Event()
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        yield stop
        return

    def on_interrupt(signum: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, usual)
