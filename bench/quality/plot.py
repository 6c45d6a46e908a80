"""The rows as a picture: ShapesEval, less the full cache's on the same prompts, against the bytes of the cache. While a
run goes on, methods have not all drawn the same prompts. Plain SVG, the same for the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from ssd_core.policies import METHODS

from .render import percent
from .summary import Row
from .ways import FULL

WIDTH, HEIGHT = 860, 500
LEFT, RIGHT, TOP, BOTTOM = 60, 640, 40, 440  # where the axes stand, in pixels
NAMES = 690  # where the methods' names begin
LINE = 19  # between two names, at least
LEAST = 0.05  # the smallest share of a cache that the axis shows, unless one is smaller
NEAR = 0.02  # of ShapesEval: the band below the full cache
# nine that are told apart with any kind of colour vision (Paul Tol's "muted"); shapes tell apart those that share one
COLOURS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
MARKERS = {
    "circle": '<circle r="4.5"/>',
    "square": '<path d="M-4-4h8v8h-8z"/>',
    "triangle": '<path d="M0-5.5l5 9h-10z"/>',
    "diamond": '<path d="M0-6l5 6-5 6-5-6z"/>',
}
STYLE = "text{font:13px sans-serif;fill:#222}.faint{font-size:12px;fill:#555}.line{fill:none;stroke-width:2}"


def plot(rows: Sequence[Row]) -> str:
    """An SVG of the rows; those that a method refused, or refused in part, are left out."""
    shown = [row for row in rows if row.shapes_eval is not None and not row.refused]
    full = next(row for row in shown if row.method == FULL.method)
    lines: dict[str, list[Point]] = {}
    least = min(LEAST, *(row.cache or 1.0 for row in shown))
    for row in shown:
        if row is not full:
            lines.setdefault(row.method, []).append(point(row.cache or 1.0, row.difference or 0.0, least))
    ticks = {percent(row.budget): point(row.budget, 0.0, least)[0] for row in shown}
    parts = [*axes(full.shapes_eval or 0.0, ticks), *curves(lines), *names(lines)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">\n'
        f"<title>ShapesEval by the bytes of the cache</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


Point = tuple[float, float]


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
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="6 4"' if method not in METHODS else ""
        yield f'<path d="M{path}" class="line" stroke="{colour(number)}"{dashes}/>'
        yield from (marker(number, *at) for at in points)


def names(lines: dict[str, list[Point]]) -> Iterator[str]:
    """The method's name beside its last point, or as near to that as the other names allow, with a thin line there."""
    ends = sorted((points[-1][1], points[-1][0], number, name) for number, (name, points) in enumerate(lines.items()))
    for (y, x, number, name), at in zip(ends, apart([end[0] for end in ends]), strict=True):
        yield f'<path d="M{x + 7:.1f} {y:.1f}L{NAMES - 14} {at:.1f}" stroke="{colour(number)}" stroke-width="0.7"/>'
        yield marker(number, NAMES - 6, at) + text(NAMES + 5, at + 4, name)


def apart(wanted: Sequence[float]) -> list[float]:
    """Rising places, each as wanted or as little off as keeps them LINE apart, none below the axis."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + LINE) if places else place)
    limit = float(BOTTOM)
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - LINE
    return places


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def marker(number: int, x: float, y: float) -> str:
    shape = list(MARKERS.values())[number % len(MARKERS)]
    return f'<g transform="translate({x:.1f} {y:.1f})" fill="{colour(number)}">{shape}</g>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
