"""What was measured, as rows, and the rows as tables."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from bench.readme import table

from .rivals import TRANSFORMERS, Run


@dataclass(frozen=True)
class Row:
    """A rival at a batch: medians over the repeats; None for all that a rival without enough memory has not.

    moved_gigabytes_per_second: what a step must read, weights of the decoder and the image head and the keys and values
        held at the end, over a step's time; share_of_copy: set against the bandwidth of a plain copy.
    peak_bytes: the most that was allocated, where the device tells.
    spread: the slowest over the fastest repeat, in seconds.
    by_row: milliseconds of a step in each row of the grid.
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


def row_of(
    rival: str, batch: int, runs: Sequence[Run], tokens: int, columns: int, copy: float, peak: int | None
) -> Row:
    """The row of some drawings of `tokens` tokens an image.

    copy: bytes a second of a plain copy.
    """
    if not runs:
        return Row(rival, batch)
    seconds = statistics.median(run.seconds for run in runs)
    moved = (runs[0].read + runs[0].kv_bytes) * tokens / seconds
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
    )


def figure(value: float | None, form: str, scale: float = 1.0) -> str:
    return "" if value is None else format(value * scale, form)


def times(row: Row, rows: Sequence[Row], rival: str) -> str:
    """How many times as many tokens a second as another rival at the same batch."""
    other = next((one for one in rows if (one.rival, one.batch) == (rival, row.batch)), None)
    if row.tokens_per_second is None or other is None or not other.tokens_per_second:
        return ""
    return f"{row.tokens_per_second / other.tokens_per_second:.2f}"


Column = Callable[[Row, Sequence[Row]], str]
COLUMNS: dict[str, Column] = {
    "batch": lambda row, _: str(row.batch),
    "rival": lambda row, _: row.rival,
    "tokens/s": lambda row, _: figure(row.tokens_per_second, ".0f") or "out of memory",
    "x transformers": lambda row, rows: times(row, rows, TRANSFORMERS),
    "x full": lambda row, rows: times(row, rows, "full"),
    "s/image": lambda row, _: figure(row.seconds_per_image, ".3g"),
    "ms/step": lambda row, _: figure(row.step_milliseconds, ".2f"),
    "cache MB": lambda row, _: figure(row.kv_bytes, ".1f", 1e-6),
    "peak MB": lambda row, _: figure(row.peak_bytes, ".0f", 1e-6),
    "moved GB/s": lambda row, _: figure(row.moved_gigabytes_per_second, ".1f"),
    "of copy": lambda row, _: figure(row.share_of_copy, ".0%"),
    "spread": lambda row, _: figure(row.spread, ".2f"),
}


def cells(rows: Sequence[Row]) -> list[list[str]]:
    return [[column(row, rows) for column in COLUMNS.values()] for row in rows]


def print_table(rows: Sequence[Row]) -> None:
    """Everything, in the terminal."""
    shown = Table(*COLUMNS)
    for line in cells(rows):
        shown.add_row(*line)
    Console(width=150).print(shown)


def markdown(rows: Sequence[Row]) -> str:
    """Tokens a second of each rival by batch, and a table of everything."""
    batches = sorted({row.batch for row in rows})
    of = {(row.rival, row.batch): row for row in rows}

    def brief(row: Row | None) -> str:
        if row is None:
            return ""
        ratio = times(row, rows, TRANSFORMERS)
        return (figure(row.tokens_per_second, ".0f") or "out of memory") + (f" ({ratio}x)" if ratio else "")

    short = [
        [rival, *(brief(of.get((rival, batch))) for batch in batches)] for rival in dict.fromkeys(r.rival for r in rows)
    ]
    parts = [
        table(["tokens/s", *(f"batch {batch}" for batch in batches)], short),
        "![Tokens a second by batch, and the time of a step as a picture grows](docs/speed.svg)",
        "<details><summary>Everything that was measured</summary>",
        table(list(COLUMNS), cells(rows)),
        "</details>",
    ]
    return "\n\n".join(parts)
