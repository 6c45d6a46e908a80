"""How concentrated each head is, as a picture: how many tokens hold most of its attention to image tokens."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from .colours import heat
from .page import FINE, INK, LINE, MARGIN, NUMBERS, PAPER, SCALE, Grid, Sheet, axes, page, scale
from .regions import HOLD, Regions

READABLE = 28  # pixels that a square with a figure takes at least
APART = 5 * LINE  # between the two tables


def draw_reach(regions: Regions, model: str) -> Image.Image:
    """Two tables of heads: tokens counted backward from the newest, and those that are attended most."""
    layers, heads, _ = regions.newest.shape
    cell = max(18, min(52, 672 // max(layers, heads)))
    even = float((regions.queries.sum() + 1) / 2 * HOLD)  # the mean over queries that see 1, 2, 3 ... image tokens
    notes = [
        f"Image tokens that hold {HOLD:.0%} of a head's attention to image tokens, mean over all steps. "
        f"Attention spread evenly takes {even:.0f}."
    ]
    tall = layers * cell
    sheet, top = page(
        f"{model}: how many tokens a head needs", notes, NUMBERS + heads * cell + SCALE, 2 * (tall + 2 * LINE) + APART
    )
    counts = {"backward from the newest": regions.newest, "largest first": regions.largest}
    for place, (name, steps) in enumerate(counts.items()):
        grid = Grid(MARGIN + NUMBERS, top + place * (tall + APART), cell, layers, heads)
        sheet.text(grid.left, grid.top - LINE, name, "la")
        squares(sheet, grid, regions.whole(steps), even)
        axes(sheet, grid)
        scale(sheet, grid, {part: f"{part * even:.0f}" for part in (0.0, 0.25, 0.5, 0.75, 1.0)})
    return sheet.image.reduce(FINE)


def squares(sheet: Sheet, grid: Grid, counts: Tensor, even: float) -> None:
    """counts float32 [layers, heads] as squares, with their figures where there is room."""
    colours = heat((counts / even).clamp(max=1).numpy()).tolist()
    for layer, row in enumerate(counts.tolist()):
        for head, count in enumerate(row):
            x, y = grid.left + head * grid.cell, grid.top + layer * grid.cell
            red, green, blue = colours[layer][head]
            sheet.box(x, y, grid.cell - 1, grid.cell - 1, (red, green, blue))
            if grid.cell >= READABLE:
                ink = PAPER if count < even / 2 else INK
                sheet.text(x + (grid.cell - 1) / 2, y + (grid.cell - 1) / 2, f"{count:.0f}", "mm", ink)
