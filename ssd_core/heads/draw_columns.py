"""The columns that far attention falls on, as a picture: steps down and columns across, once for each head."""

from __future__ import annotations

from PIL import Image

from .colours import heat
from .page import FINE, LINE, MARGIN, NUMBERS, SCALE, Grid, axes, page, scale, side_of
from .regions import Regions

GAP = 3  # between the heads


def draw_columns(regions: Regions, model: str) -> Image.Image:
    """Every query head as a picture of its steps and the columns it attends two rows up and further.

    Light is much: the scale goes by square roots, so that the little that most columns get can be told from nothing.
    """
    layers, heads, steps, columns = regions.columns.shape
    cell = side_of(layers, heads, columns) + GAP
    notes = [
        f"A square is a head: {steps} steps from top to bottom, {columns} columns from left to right.",
        "Light: much of all attention goes to this column's tokens two rows up and further.",
    ]
    sheet, top = page(
        f"{model}: columns of far attention", notes, NUMBERS + heads * cell + SCALE, layers * cell + 2 * LINE
    )
    grid = Grid(MARGIN + NUMBERS, top, cell, layers, heads)
    most = max(float(regions.columns.max()), 1e-3)
    pixels = heat((regions.columns / most).sqrt().numpy())
    for layer in range(layers):
        for head in range(heads):
            sheet.paste(grid.left + head * cell, top + layer * cell, cell - GAP, cell - GAP, pixels[layer, head])
    axes(sheet, grid)
    scale(sheet, grid, {place: f"{place**2 * most:.2g}" for place in (0.0, 0.25, 0.5, 0.75, 1.0)})
    return sheet.image.reduce(FINE)
