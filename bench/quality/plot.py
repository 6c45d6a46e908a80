"""The rows as a picture: ShapesEval, less the full cache's on the same prompts, against the bytes of the cache. While a
run goes on, methods have not all drawn the same prompts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench.svg import Point, curve, marker, names, page, text
from ssd_core.policies import METHODS

from .render import percent
from .summary import Row
from .ways import BUDGETS, FULL

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 60, 640, 40, 440  # where the axes stand, in pixels
NAMES = 690  # where the methods' names begin
LEAST = 0.05  # the smallest share of a cache that the axis shows, unless one is smaller
NEAR = 0.02  # of ShapesEval: the band below the full cache


def plot(rows: Sequence[Row]) -> str:
    """An SVG of the rows; those that a method refused, or refused in part, are left out."""
    shown = [row for row in rows if row.shapes_eval is not None and not row.refused]
    full = next(row for row in shown if row.method == FULL.method)
    lines: dict[str, list[Point]] = {}
    least = min(LEAST, *(row.cache or 1.0 for row in shown))
    for row in shown:
        if row is not full:
            lines.setdefault(row.method, []).append(point(row.cache or 1.0, row.difference or 0.0, least))
    # others were measured at budgets between these, whose words would lie on one another
    ticks = {percent(row.budget): point(row.budget, 0.0, least)[0] for row in shown if row.budget in (1.0, *BUDGETS)}
    ends = [(number, name, points[-1]) for number, (name, points) in enumerate(lines.items())]
    parts = [*axes(full.shapes_eval or 0.0, ticks), *curves(lines), *names(ends, NAMES, BOTTOM)]
    return page("ShapesEval by the bytes of the cache", WIDTH, HEIGHT, parts)


def point(share: float, difference: float, least: float) -> Point:
    """Where a share of the cache stands, the whole on the left and halves equally far apart, and a difference to the
    full cache's score, from -1 up to 0 and a little more."""
    return LEFT + (RIGHT - LEFT) * math.log(share) / math.log(least), TOP - (BOTTOM - TOP) * difference


def axes(full: float, ticks: dict[str, float]) -> Iterator[str]:
    """The frame, and the full cache's score with the band below it."""
    top, bottom = (point(1.0, difference, LEAST)[1] for difference in (0.0, -NEAR))
    yield f'<rect x="{LEFT}" y="{top:.1f}" width="{RIGHT - LEFT}" height="{bottom - top:.1f}" fill="#ddd"/>'
    for fifth in range(6):
        _, y = point(1.0, -fifth / 5, LEAST)
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{"#222" if fifth == 5 else "#e8e8e8"}"/>'
        yield text(LEFT - 8, y + 4, f"{-fifth / 5:.1f}" if fifth else "0", "end", "faint")
    yield f'<path d="M{LEFT} {top:.1f}H{RIGHT}" stroke="#222" stroke-dasharray="2 3"/>'
    yield text(LEFT + 8, bottom + 16, f"as the full cache, {full:.3f}, or up to 0.02 less")
    for words, x in ticks.items():
        yield f'<path d="M{x:.1f} {BOTTOM}v5" stroke="#222"/>'
        yield text(x, BOTTOM + 20, words, "middle", "faint")
    yield text((LEFT + RIGHT) / 2, BOTTOM + 44, "bytes of keys and values, of the full cache", "middle")
    yield text(LEFT - 44, TOP - 18, "ShapesEval, less the full cache's on the same prompts")


def curves(lines: dict[str, list[Point]]) -> Iterator[str]:
    """A line through the points of each method, dashed for a variant, and a marker at each point."""
    for number, (method, points) in enumerate(lines.items()):
        yield curve(number, points, dashed=method not in METHODS)
        yield from (marker(number, *at) for at in points)
