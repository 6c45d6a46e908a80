"""What was measured, as rows, and the rows as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.readme import table

from .rivals import FULL, TRANSFORMERS, Run

LARGEST = "largest"


@dataclass(frozen=True)
class Row:
    """A rival at a batch: medians over the repeats; None for all that a rival without enough memory has not.

    moved_gigabytes_per_second: what a step must read over a step's time, both on the mean; share_of_copy: set against
        the bandwidth of a plain copy.
    peak_bytes: the most that was allocated, where the device tells.
    spread: the slowest over the fastest repeat, in seconds.
    by_row: milliseconds of a step in each row of the grid.
    largest: whether the batch is the largest that this rival has memory for; it is 0 where no picture fits.
    """

    rival: str
    batch: int
    tokens_per_second: float | None = None
    seconds_per_image: float | None = None
    step_milliseconds: float | None = None
    kv_bytes: int | None = None
    peak_bytes: int | None = None
    moved_gigabytes_per_second: float | None = None
    share_of_copy: float | None = None
    spread: float | None = None
    by_row: list[float] | None = None
    largest: bool = False

    @property
    def column(self) -> str:
        """The batch that was asked for."""
        return LARGEST if self.largest else str(self.batch)

    @property
    def images_per_second(self) -> float | None:
        return self.seconds_per_image and 1 / self.seconds_per_image


def row_of(
    rival: str,
    batch: int,
    runs: Sequence[Run],
    tokens: int,
    columns: int,
    copy: float,
    peak: int | None,
    largest: bool = False,
) -> Row:
    """The row of some drawings of `tokens` tokens an image.

    copy: bytes a second of a plain copy.
    """
    if not runs:
        return Row(rival, batch, largest=largest)
    seconds = statistics.median(run.seconds for run in runs)
    moved = (runs[0].read + runs[0].kv_read) * tokens / seconds
    each = [[after - before for before, after in zip([0.0, *run.by_row], run.by_row, strict=False)] for run in runs]
    return Row(
        rival,
        batch,
        batch * tokens / seconds,
        seconds / batch,
        1000 * seconds / tokens,
        runs[0].kv_bytes,
        peak,
        moved / 1e9,
        moved / copy,
        max(run.seconds for run in runs) / min(run.seconds for run in runs),
        [1000 / columns * statistics.median(row) for row in zip(*each, strict=True)],
        largest,
    )


def figure(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, form)


def times(row: Row, rows: Sequence[Row], rival: str) -> str:
    """How many times as many tokens a second as another rival at the same batch, or at the largest of each."""
    other = next((one for one in rows if (one.rival, one.column) == (rival, row.column)), None)
    if row.tokens_per_second is None or other is None or not other.tokens_per_second:
        return ""
    return f"{row.tokens_per_second / other.tokens_per_second:.2f}"


Column = Callable[[Row, Sequence[Row]], str]
COLUMNS: dict[str, Column] = {
    "batch": lambda row, _: f"{row.batch}, largest" if row.largest else str(row.batch),
    "rival": lambda row, _: row.rival,
    "tokens/s": lambda row, _: figure(row.tokens_per_second, ".0f") or "out of memory",
    "x transformers": lambda row, rows: times(row, rows, TRANSFORMERS),
    "x full": lambda row, rows: times(row, rows, FULL),
    "images/s": lambda row, _: figure(row.images_per_second, ".3g"),
    "s/image": lambda row, _: figure(row.seconds_per_image, ".3g"),
    "ms/step": lambda row, _: figure(row.step_milliseconds, ".2f"),
    "cache MB": lambda row, _: figure(row.kv_bytes, ".1f", 1e-6),
    "peak MB": lambda row, _: figure(row.peak_bytes, ".0f", 1e-6),
    "moved GB/s": lambda row, _: figure(row.moved_gigabytes_per_second, ".1f"),
    "of copy": lambda row, _: figure(row.share_of_copy, ".0%"),
    "spread": lambda row, _: figure(row.spread, ".2f"),
}


def everything(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """The columns' names and the lines, without columns in which nothing stands, such as a peak on the processor."""
    lines = [[column(row, rows) for column in COLUMNS.values()] for row in rows]
    told = [place for place in range(len(COLUMNS)) if any(line[place] for line in lines)]
    return [list(COLUMNS)[place] for place in told], [[line[place] for place in told] for line in lines]


def print_table(rows: Sequence[Row]) -> None:
    """Everything, in the terminal."""
    columns, lines = everything(rows)
    shown = Table(*columns)
    for line in lines:
        shown.add_row(*line)
    Console(width=150).print(shown)


def markdown(rows: Sequence[Row]) -> str:
    """Tokens a second of each rival by batch, and a table of everything."""
    columns = list(dict.fromkeys(row.column for row in sorted(rows, key=lambda row: (row.largest, row.batch))))
    of = {(row.rival, row.column): row for row in rows}

    def brief(row: Row | None) -> str:
        if row is None:
            return ""
        ratio, batch = times(row, rows, TRANSFORMERS), f"{row.batch}: " if row.largest else ""
        return batch + (figure(row.tokens_per_second, ".0f") or "out of memory") + (f" ({ratio}x)" if ratio else "")

    short = [
        [rival, *(brief(of.get((rival, column))) for column in columns)]
        for rival in dict.fromkeys(r.rival for r in rows)
    ]
    parts = [
        table(["tokens/s", *(LARGEST if column == LARGEST else f"batch {column}" for column in columns)], short),
        "![Tokens a second by batch, and the time of a step as a picture grows](docs/speed.svg)",
        "<details><summary>Everything that was measured</summary>",
        table(*everything(rows)),
        "</details>",
    ]
    return "\n\n".join(parts)
