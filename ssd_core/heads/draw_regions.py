"""Where attention goes, as a picture: a small chart for each head, its steps from left to right."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from .headmap import HeadMap, check_tau
from .page import FAINT, FINE, INK, LINE, MARGIN, NUMBERS, Colour, Grid, Sheet, axes, page, side_of
from .regions import REGIONS, Regions

# near in blues, far in warm colours, the prompt in grey
COLOURS: dict[str, Colour] = {
    "above": (24, 49, 96),
    "row above": (74, 122, 178),
    "own row": (158, 195, 226),
    "margins": (206, 50, 66),
    "rest": (246, 178, 92),
    "prompt": (208, 204, 200),
}
FRAME = 2  # around semantic heads
GAP = FRAME + 2  # between the charts
SWATCH = 12  # a colour in the legend


def draw_regions(regions: Regions, head_map: HeadMap, tau: float) -> Image.Image:
    """Every query head as a chart of its shares, stacked as REGIONS lists them, with a frame around the semantic ones.

    The last column is the mean over a layer's heads. The map is that of the same measuring.

    Raises UserError where tau is no share.
    """
    check_tau(tau)
    layers, heads, steps = regions.newest.shape
    cell = side_of(layers, heads, steps) + GAP
    notes = [
        f"A square is a head: its {steps} steps, rows of the picture, from left to right in the order of drawing; the "
        "shares of its attention from bottom to top. Right: the mean of a layer.",
        f"Framed: semantic heads, above tau = {tau:g}.",
    ]
    width, legend = NUMBERS + (heads + 1) * cell + LINE, len(REGIONS) * LINE + LINE
    sheet, top = page(
        f"{head_map.about['model']}: where attention goes", notes, width, layers * cell + 2 * LINE + legend
    )
    grid = Grid(MARGIN + NUMBERS, top, cell, layers, heads)
    semantic = (head_map.share > tau).tolist()
    for layer in range(layers):
        y = top + layer * cell
        for head in range(heads):
            chart(sheet, grid.left + head * cell, y, cell - GAP, regions.share[layer, head], semantic[layer][head])
        chart(sheet, grid.right + LINE, y, cell - GAP, regions.share[layer].mean(0), False)
    axes(sheet, grid)
    sheet.text(grid.right + LINE + (cell - GAP) / 2, grid.bottom + 7, "mean", "ma")
    means = regions.whole(regions.share).mean((0, 1)).tolist()
    for line, region, mean in zip(range(len(REGIONS), 0, -1), REGIONS, means, strict=True):
        explain(sheet, grid.left, grid.bottom + 2 * LINE + line * LINE, region, mean)
    return sheet.image.reduce(FINE)


def chart(sheet: Sheet, x: int, y: int, side: int, share: Tensor, framed: bool) -> None:
    """Shares float32 [steps, REGIONS] as bars side by side."""
    if framed:
        sheet.box(x - FRAME, y - FRAME, side + 2 * FRAME, side + 2 * FRAME, INK)
    heights = 1 - (np.arange(side * FINE) + 0.5) / (side * FINE)
    tops = share.cumsum(-1).numpy()[:, :-1]
    region = (heights[:, None, None] > tops).sum(-1)
    sheet.paste(x, y, side, side, np.array([COLOURS[name] for name in REGIONS], np.uint8)[region])


def explain(sheet: Sheet, x: int, y: int, region: str, mean: float) -> None:
    """A line of the legend."""
    sheet.box(x, y, SWATCH, SWATCH, COLOURS[region])
    sheet.text(x + 70, y + SWATCH / 2, f"{mean:.1%}", "rm")
    sheet.text(x + 84, y + SWATCH / 2, region, "lm")
    sheet.text(x + 164, y + SWATCH / 2, REGIONS[region], "lm", FAINT)
