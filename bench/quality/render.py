"""The rows as tables: for a terminal, and for the README."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from bench.readme import table
from ssd_core.evaluate.scenes import TASKS

from .summary import Row
from .ways import FULL


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def prompts(row: Row) -> str:
    return f"{row.prompts} of {row.prompts + row.refused}" if row.refused else str(row.prompts)


def spread(row: Row) -> str:
    return "{:+.3f} to {:+.3f}".format(*row.interval) if row.interval else ""


def psnr(row: Row) -> str:
    return "same" if row.squared_error == 0 else number(row.psnr, ".1f")


COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row.method,
    "budget": lambda row: percent(row.budget),
    "prompts": prompts,
    "ShapesEval": lambda row: number(row.shapes_eval, ".3f"),
    "to full": lambda row: number(row.difference, "+.3f"),
    "95 %": spread,
    "tokens as full": lambda row: number(row.agreement, ".3f"),
    "KL": lambda row: number(row.kl, ".2g"),
    "cross-entropy": lambda row: number(row.cross_entropy, ".4f"),
    "PSNR": psnr,
    "SSIM": lambda row: number(row.ssim, ".3f"),
    "cache": lambda row: number(row.cache, ".3f"),
    "+ bookkeeping": lambda row: number(row.held, ".3f"),
    "peak MB": lambda row: number(row.peak_bytes and row.peak_bytes / 1e6, ".0f"),
}


def print_table(rows: Sequence[Row]) -> None:
    """Everything, in the terminal."""
    table = Table(*COLUMNS, "s/picture", *TASKS)
    for row in rows:
        seconds = row.seconds / row.prompts if row.seconds else None
        tasks = (number((row.accuracy or {}).get(task), ".2f") for task in TASKS)
        table.add_row(*(show(row) for show in COLUMNS.values()), number(seconds, ".2f"), *tasks)
    console = Console(width=240)
    console.print(table)
    for line in refusals(rows):
        console.print(line, markup=False)


def refusals(rows: Sequence[Row]) -> list[str]:
    """A sentence for each method that cannot work at a budget."""
    return [
        f"{row.method} at {percent(row.budget)}, {row.refused} of {row.prompts + row.refused} prompts: {row.refusal}"
        for row in rows
        if row.refused
    ]


def markdown(rows: Sequence[Row]) -> str:
    """What stands between the README's markers: a short table, the plot, and a table of everything."""
    full = next(row for row in rows if row.method == FULL.method)
    budgets = sorted({row.budget for row in rows if row is not full}, reverse=True)
    methods = dict.fromkeys(row.method for row in rows if row is not full)
    of = {(row.method, row.budget): row for row in rows}
    short = [[name, *(brief(of.get((name, budget)), full) for budget in budgets)] for name in methods]
    parts = [
        f"ShapesEval with the full cache is {full.shapes_eval:.3f} on {full.prompts} prompts. What each method "
        "adds to that or takes from it, on the same prompts, with 95 % in brackets:",
        table(["method", *map(percent, budgets)], short),
        "![ShapesEval of each method by the bytes of its cache](docs/quality.svg)",
        f"<details><summary>Everything that was measured; KL to SSIM on {full.forced} prompts</summary>",
        everything(rows),
        "</details>",
    ]
    return "\n\n".join(parts)


def everything(rows: Sequence[Row]) -> str:
    """A table of all that was measured."""
    whole = table(list(COLUMNS), [[show(row) for show in COLUMNS.values()] for row in rows])
    return "\n\n".join([whole, *(f"- {line}" for line in refusals(rows))])


def brief(row: Row | None, full: Row) -> str:
    """A cell of the short table."""
    if row is None:
        return ""
    if row.refused:
        return "refused" if not row.prompts else f"refused for {row.refused} of {row.prompts + row.refused}"
    fewer = "" if row.prompts == full.prompts else f"; {row.prompts} prompts"
    return f"{row.difference:+.3f} ({spread(row)}{fewer})"
