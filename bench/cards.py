"""What fits on which card: the largest batch of Janus-Pro by weights, method, and what keys and values are kept in.

    python -m bench.cards

Everything is planned on torch's meta device, for a GPU and without one: a few minutes of the processor. What many
pictures take is computed from plans of some and of many, between which each part grows evenly but for one bend; few are
planned as they are. The tables go to docs/cards.md, and that of one card to the README.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from bench.readme import put_between, table
from ssd_core.cli.plan import empty
from ssd_core.memory import SOME, Memory, growing, largest_batch, most_images, plan
from ssd_core.models.known import KNOWN
from ssd_core.models.small import WEIGHTS
from ssd_core.policies import METHODS, Full, Policy

ROOT = Path(__file__).parents[1]
DOCUMENT, README = ROOT / "docs" / "cards.md", ROOT / "README.md"
CARDS = (6, 8, 12, 16, 24)  # GiB
OF_README = 8
SHOWN = ("full", "ssd", "reach", "window", "headkv")
BUDGET = 0.2
KEPT_IN = ("auto", "int8")  # keys and values
RESERVE = 1.0
MANY = 128  # images; what a step converts matrices into is outgrown by then

Fits = dict[int, list[int]]  # by card, the largest batch for each of KEPT_IN


@dataclass(frozen=True)
class Way:
    """A model with its weights, and a method."""

    model: str
    weights: str
    method: str

    def policy(self) -> Policy:
        cls: Any = METHODS[self.method]
        return Full() if cls is Full else cls(budget=BUDGET)


def fits(way: Way, reserve: float, cards: Sequence[int] = CARDS) -> Fits:
    """The largest batches on cards of so many GiB, `reserve` of which are left to others; 0 where no picture fits."""
    model, policy = empty(way.model, "bf16", way.weights), way.policy()

    def most(free: int, kept_in: str) -> int:
        def planned(images: int) -> Memory:
            return plan(model, policy, images, kv_dtype=kept_in)

        images = most_images(growing(planned, (SOME, MANY)), free)
        return images if images > SOME else largest_batch(model, policy, free, kv_dtype=kept_in)

    free = {card: int((card - reserve) * 2**30) for card in cards}
    return {card: [most(own, kept_in) for kept_in in KEPT_IN] for card, own in free.items()}


def cell(most: Sequence[int]) -> str:
    return " / ".join(map(str, most))


def whole(found: dict[Way, Fits]) -> str:
    """A table for each model, in Markdown."""
    header = ["weights", "method", *(f"{card} GB" for card in CARDS)]
    parts = []
    for model in KNOWN:
        own = {way: batches for way, batches in found.items() if way.model == model}
        rows = [[way.weights, way.method, *(cell(batches[card]) for card in CARDS)] for way, batches in own.items()]
        parts.append(f"## {model}\n\n{table(header, rows)}")
    return "\n\n".join(parts)


def short(found: dict[Way, Fits]) -> str:
    """The table of one card."""
    rows = [
        [f"{model}, {weights}", *(cell(found[Way(model, weights, method)][OF_README]) for method in SHOWN)]
        for model, weights in product(KNOWN, WEIGHTS)
    ]
    return table([f"{OF_README} GB", *SHOWN], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.cards", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reserve", type=float, default=RESERVE, help="GiB of a card that are left to others")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that plan side by side")
    given = parser.parse_args()
    ways = [Way(*parts) for parts in product(KNOWN, WEIGHTS, SHOWN)]
    found: dict[Way, Fits] = {}
    with ProcessPoolExecutor(given.workers, multiprocessing.get_context("spawn")) as pool:
        for way, own in zip(ways, pool.map(partial(fits, reserve=given.reserve), ways), strict=True):
            found[way] = own
            print(f"{way.model}, {way.weights}, {way.method}: {', '.join(map(cell, own.values()))}", flush=True)
    note = f"{given.reserve:g} GiB of each card are left to others."
    put_between(DOCUMENT, "cards", f"{note}\n\n{whole(found)}")
    put_between(README, "cards", f"{short(found)}\n\n{note}")


if __name__ == "__main__":
    main()
