"""What the plots of the benches have in common. Plain SVG, the same for the same figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

Point = tuple[float, float]
LINE = 19  # between two names, at least
# nine that are told apart with any kind of colour vision (Paul Tol's "muted"); shapes tell apart those that share one
COLOURS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")
MARKERS = (
    '<circle r="4.5"/>',
    '<path d="M-4-4h8v8h-8z"/>',
    '<path d="M0-5.5l5 9h-10z"/>',
    '<path d="M0-6l5 6-5 6-5-6z"/>',
)
STYLE = "text{font:13px sans-serif;fill:#222}.faint{font-size:12px;fill:#555}.line{fill:none;stroke-width:2}"


def page(title: str, width: int, height: int, parts: Iterable[str]) -> str:
    """A picture on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n"
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def curve(number: int, points: Sequence[Point], dashed: bool = False) -> str:
    """A line through points."""
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="6 4"' if dashed else ""
    return f'<path d="M{path}" class="line" stroke="{colour(number)}"{dashes}/>'


def names(ends: Sequence[tuple[int, str, Point]], left: float, limit: float) -> Iterator[str]:
    """Each curve's name (number, name, last point) right of `left`, as near to its last point as the other names allow,
    with a thin line there; none below `limit`."""
    ordered = sorted(ends, key=lambda end: (end[2][1], end[2][0], end[0]))
    places = apart([end[2][1] for end in ordered], limit)
    for (number, name, (x, y)), at in zip(ordered, places, strict=True):
        yield f'<path d="M{x + 7:.1f} {y:.1f}L{left - 14} {at:.1f}" stroke="{colour(number)}" stroke-width="0.7"/>'
        yield marker(number, left - 6, at) + text(left + 5, at + 4, name)


def apart(wanted: Sequence[float], limit: float) -> list[float]:
    """Rising places, each as wanted or as little off as keeps them LINE apart, none above `limit`."""
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + LINE) if places else place)
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - LINE
    return places


def colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def marker(number: int, x: float, y: float) -> str:
    return f'<g transform="translate({x:.1f} {y:.1f})" fill="{colour(number)}">{MARKERS[number % len(MARKERS)]}</g>'


def text(x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
