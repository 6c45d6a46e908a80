"""The rows as a picture: tokens a second by the batch, and the time of a step as the picture grows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from bench.svg import Point, curve, marker, names, page, text
from ssd_core.errors import UserError

from .table import Row

WIDTH, HEIGHT = 940, 760
LEFT, RIGHT = 70, 600  # where the axes stand, in pixels
NAMES = 640  # where the rivals' names begin
MARKED = 6  # rows of the grid from one mark to the next
UPPER, LOWER = (40, 340), (420, 700)  # top and bottom of the two panels


def plot(rows: Sequence[Row], columns: int) -> str:
    """An SVG. columns: image tokens in a row of the picture."""
    shown = [row for row in rows if row.tokens_per_second and not row.largest]
    if not shown:
        raise UserError(
            "The plot is of batches that are the same for all rivals, and none was drawn; ask for a number."
        )
    numbers = {rival: number for number, rival in enumerate(dict.fromkeys(row.rival for row in shown))}
    parts = [*by_batch(shown, numbers), *by_token(shown, numbers, columns)]
    return page("Speed by the batch and by the tokens drawn", WIDTH, HEIGHT, parts)


def by_batch(rows: Sequence[Row], numbers: dict[str, int]) -> Iterator[str]:
    """Tokens a second, both axes in doublings."""
    batches = sorted({row.batch for row in rows})
    powers = [math.log2(row.tokens_per_second or 1.0) for row in rows]
    least, most = math.floor(min(powers)), math.ceil(max(powers))
    x = scale(math.log2(batches[0]) - 0.2, math.log2(batches[-1]) + 0.2, LEFT, RIGHT)
    y = scale(least, most, UPPER[1], UPPER[0])
    yield from frame(UPPER, "Tokens a second", "pictures drawn at once")
    yield from ticks([(x(math.log2(batch)), str(batch)) for batch in batches], UPPER)
    yield from lines([(y(power), f"{2**power:g}") for power in range(least, most + 1)])
    ends = []
    for rival, number in numbers.items():
        own = [
            (x(math.log2(row.batch)), y(math.log2(row.tokens_per_second or 1.0))) for row in rows if row.rival == rival
        ]
        yield curve(number, own) + "".join(marker(number, *at) for at in own)
        ends.append((number, rival, own[-1]))
    yield from names(ends, NAMES, UPPER[1])


def by_token(rows: Sequence[Row], numbers: dict[str, int], columns: int) -> Iterator[str]:
    """Milliseconds of a step at the largest batch, row by row of the picture."""
    batch = max(row.batch for row in rows)
    told = [row for row in rows if row.batch == batch and row.by_row]
    if not told:
        return
    step = round_step(max(max(row.by_row or []) for row in told) / 4)
    count = max(len(row.by_row or []) for row in told)
    x, y = scale(0, count * columns, LEFT, RIGHT), scale(0.0, 4 * step, LOWER[1], LOWER[0])
    yield from frame(LOWER, f"Milliseconds a step, {batch} pictures at once", "tokens drawn of each picture")
    yield from ticks(
        [(x(share * count * columns / 4), f"{share * count * columns / 4:g}") for share in range(5)], LOWER
    )
    yield from lines([(y(share * step), f"{share * step:.3g}") for share in range(5)])
    ends = []
    for row in told:
        number = numbers[row.rival]
        own: list[Point] = [(x((index + 0.5) * columns), y(took)) for index, took in enumerate(row.by_row or [])]
        yield curve(number, own) + "".join(marker(number, *at) for at in own[::MARKED])
        ends.append((number, row.rival, own[-1]))
    yield from names(ends, NAMES, LOWER[1])


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Numbers from low to high to pixels from start to end."""
    return lambda value: start + (end - start) * (value - low) / ((high - low) or 1.0)


def frame(panel: tuple[int, int], title: str, below: str) -> Iterator[str]:
    top, bottom = panel
    yield f'<path d="M{LEFT} {top}V{bottom}H{RIGHT}" fill="none" stroke="#222"/>'
    yield text(LEFT - 54, top - 14, title)
    yield text((LEFT + RIGHT) / 2, bottom + 38, below, "middle")


def round_step(least: float) -> float:
    """The smallest multiple of half a power of ten, in the size of `least`, that is no smaller."""
    unit = 10.0 ** math.floor(math.log10(least)) / 2
    return math.ceil(least / unit) * unit


def ticks(at: Sequence[tuple[float, str]], panel: tuple[int, int]) -> Iterator[str]:
    for x, words in at:
        yield text(x, panel[1] + 18, words, "middle", "faint")


def lines(at: Sequence[tuple[float, str]]) -> Iterator[str]:
    for y, words in at:
        yield f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="#e8e8e8"/>' + text(LEFT - 8, y + 4, words, "end", "faint")
