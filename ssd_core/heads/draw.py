"""A head map as a picture for people: layers down, heads across, light where attention travels far."""

from __future__ import annotations

from PIL import Image

from .colours import heat
from .headmap import HeadMap, check_tau
from .page import FINE, INK, LINE, MARGIN, NUMBERS, PAPER, SCALE, Grid, Sheet, axes, page, scale


def draw(head_map: HeadMap, tau: float) -> Image.Image:
    """Every query head as a square in the colour of its share, with a dot on the semantic ones, those above tau.

    A model with grouped queries decides by the mean over the heads of a group (`HeadMap.semantic`); a map does not know
    the groups, so the dots do not either.

    Raises UserError where tau is no share.
    """
    check_tau(tau)
    layers, heads = head_map.share.shape
    cell = max(18, min(52, 672 // max(layers, heads)))
    title, *notes = words(head_map, tau)
    sheet, top = page(title, notes, NUMBERS + heads * cell + SCALE, layers * cell + 2 * LINE)
    grid = Grid(MARGIN + NUMBERS, top, cell, layers, heads)
    squares(sheet, grid, head_map, tau)
    axes(sheet, grid)
    height = grid.bottom - 1 - grid.top
    marks = {0.0: "0", 0.25: "0.25", 0.5: "0.5", 0.75: "0.75", 1.0: "1"}
    scale(sheet, grid, {share: label for share, label in marks.items() if abs(share - tau) * height > LINE})
    at = grid.bottom - 1 - tau * height
    sheet.box(grid.right + 21, at - 1, 22, 2, INK)
    sheet.text(grid.right + 48, at, f"tau {tau:g}", "lm")
    return sheet.image.reduce(FINE)


def words(head_map: HeadMap, tau: float) -> list[str]:
    """The title, and the notes below it."""
    about, semantic = head_map.about, float((head_map.share > tau).float().mean())
    counted = f"{semantic:.0%} of {head_map.share.numel()} heads are semantic"
    notes = [
        "Share of a head's attention to image tokens that leaves its neighbourhood.",
        f"Dots: semantic heads, with a share above tau = {tau:g}.",
    ]
    if "source" in about:
        details = "; ".join(f"{key}: {about[key]}" for key in ("prompts", "neighbourhood") if key in about)
        notes.append(f"Source: {about['source']}" + (f" ({details})." if details else "."))
    return [f"{about['model']}: {counted}" if "model" in about else counted, *notes]


def squares(sheet: Sheet, grid: Grid, head_map: HeadMap, tau: float) -> None:
    colours = heat(head_map.share.numpy()).tolist()
    semantic = (head_map.share > tau).tolist()
    middle = (grid.cell - 1) / 2
    for layer in range(grid.layers):
        for head in range(grid.heads):
            x, y = grid.left + head * grid.cell, grid.top + layer * grid.cell
            red, green, blue = colours[layer][head]
            sheet.box(x, y, grid.cell - 1, grid.cell - 1, (red, green, blue))
            if semantic[layer][head]:
                # the ring shows on light squares, the middle on dark ones
                sheet.dot(x + middle, y + middle, grid.cell / 7, INK)
                sheet.dot(x + middle, y + middle, grid.cell / 7 - 1, PAPER)
