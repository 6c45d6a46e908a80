"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)


def human(count: float) -> str:
    """Bytes in the unit that a person would choose: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def table(*columns: str) -> Table:
    """An empty table whose first column is words and whose others are figures; without names it has no header."""
    made = Table(box=None, pad_edge=False, show_header=any(columns))
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left", no_wrap=bool(place))
    return made
