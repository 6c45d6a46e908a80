"""Where words go: results to standard output, everything else to standard error."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

# no markup: what stands in brackets in a path or a prompt is the user's
OUT = Console(highlight=False, markup=False)
ERR = Console(stderr=True, highlight=False, markup=False)


def table(*columns: str) -> Table:
    """An empty table whose first column is words and whose others are figures; without names it has no header."""
    made = Table(box=None, pad_edge=False, show_header=any(columns))
    for place, column in enumerate(columns):
        made.add_column(column, justify="right" if place else "left", no_wrap=bool(place))
    return made
