"""From cells to a row for each method and budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd_core.evaluate.scenes import TASKS

from .ledger import Record
from .ways import FULL

DRAWS = 2000  # of the bootstrap


@dataclass(frozen=True)
class Row:
    """A method at a budget, over all that was measured of it; what was not is None.

    prompts: how many were drawn; refused: how many the method refused, and why it refused the first.
    shapes_eval: the mean of the accuracies of the tasks; difference: to the full cache's on the same prompts.
    interval: 95 % of that difference, by a paired bootstrap over prompts.
    agreement: the share of tokens that are as the full cache's.
    cache, held: bytes of keys and values, and with bookkeeping, as shares of the full cache's keys and values.
    peak_bytes: the most that drawing a batch held. seconds: of the token loop, of all batches.
    forced: prompts that the rest was measured on.
    kl: of the guided distribution from the full cache's, which both are given, in nats a token.
    cross_entropy: of right pictures, from the conditional rows alone, in nats a token; not of methods that need both.
    squared_error, ssim: between the pictures and the full cache's, of 0..1; psnr: of the former, None where it is 0.
    """

    method: str
    budget: float
    policy: str
    prompts: int
    refused: int
    refusal: str
    shapes_eval: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    accuracy: dict[str, float] | None = None
    agreement: float | None = None
    cache: float | None = None
    held: float | None = None
    peak_bytes: int | None = None
    seconds: float | None = None
    forced: int = 0
    kl: float | None = None
    cross_entropy: float | None = None
    squared_error: float | None = None
    psnr: float | None = None
    ssim: float | None = None


def summary(records: Sequence[Record]) -> list[Row]:
    """A row for each method and budget: the full cache first, larger budgets before smaller ones."""
    ways = list(dict.fromkeys((record["method"], record["budget"]) for record in records))
    ways.sort(key=lambda way: (way[0] != FULL.method, -way[1]))
    full = {record["seed"]: record["right"] for record in records if of(record, FULL.method, FULL.budget, "drawn")}
    return [row_of([record for record in records if of(record, *way)], full) for way in ways]


def of(record: Record, method: str, budget: float, cell: str | None = None) -> bool:
    return (record["method"], record["budget"]) == (method, budget) and cell in (None, record["cell"])


def row_of(records: Sequence[Record], full: dict[int, list[int]]) -> Row:
    """The row of a method at a budget. full: which pictures of the full cache are right, by the batch's seed."""
    refused = [record for record in records if record["cell"] == "drawn" and "refused" in record]
    drawn = [record for record in records if record["cell"] == "drawn" and "refused" not in record]
    forced = [record for record in records if record["cell"] == "forced" and "refused" not in record]
    first = records[0]
    figures: dict[str, Any] = {}
    if drawn:
        tasks, right = joined(drawn, "tasks"), joined(drawn, "right")
        paired = np.concatenate([full[record["seed"]] for record in drawn])
        kv_bytes, kv_bytes_full, extra, seconds = (
            sum(record[name] for record in drawn)
            for name in ("kv_bytes", "kv_bytes_full", "bookkeeping_bytes", "seconds")
        )
        figures |= {
            "shapes_eval": overall(tasks, right),
            "difference": overall(tasks, right - paired),
            "interval": interval(tasks, right - paired),
            "accuracy": {task: float(right[tasks == task].mean()) for task in there(tasks)},
            "agreement": float(joined(drawn, "agreement").mean()),
            "cache": kv_bytes / kv_bytes_full,
            "held": (kv_bytes + extra) / kv_bytes_full,
            "peak_bytes": max(record["peak_bytes"] for record in drawn),
            "seconds": seconds,
        }
    if forced:
        names = ("kl", "cross_entropy", "squared_error", "ssim")
        figures |= {name: float(joined(forced, name).mean()) for name in names if name in forced[0]}
        error = figures["squared_error"]
        figures |= {"forced": len(joined(forced, "kl")), "psnr": -10 * math.log10(error) if error else None}
    return Row(
        method=first["method"],
        budget=first["budget"],
        policy=first["policy"],
        prompts=sum(len(record["right"]) for record in drawn),
        refused=sum(record["prompts"] for record in refused),
        refusal=refused[0]["refused"] if refused else "",
        **figures,
    )


def joined(records: Sequence[Record], name: str) -> NDArray[Any]:
    """A figure of all prompts."""
    return np.concatenate([record[name] for record in records])


def there(tasks: NDArray[np.str_]) -> list[str]:
    """The tasks that occur."""
    return [task for task in TASKS if (tasks == task).any()]


def overall(tasks: NDArray[np.str_], values: NDArray[Any]) -> float:
    """The mean of the tasks' means, each counting the same however many prompts it has."""
    return float(np.mean([values[tasks == task].mean() for task in there(tasks)]))


def interval(tasks: NDArray[np.str_], values: NDArray[Any], draws: int = DRAWS) -> tuple[float, float]:
    """95 % of `overall`, by resampling prompts within each task (percentile bootstrap)."""
    rng = np.random.default_rng(0)
    means = []
    for task in there(tasks):
        own = values[tasks == task]
        means.append(own[rng.integers(len(own), size=(draws, len(own)))].mean(1))
    low, high = np.percentile(np.mean(means, 0), [2.5, 97.5])
    return float(low), float(high)
