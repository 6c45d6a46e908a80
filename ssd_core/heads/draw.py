"""A head map as a picture for people: layers down, heads across, light where attention travels far."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .colours import heat
from .headmap import HeadMap, check_tau

FINE = 4  # drawn so much larger and then averaged, which smooths letters and dots
PAPER, INK, FAINT = (252, 251, 248), (38, 34, 44), (118, 112, 122)
TITLE, SMALL = 22, 13  # font sizes
LINE = 19  # between lines of small text
MARGIN = 28
NUMBERS = 40  # width of the layers' numbers
SCALE = 92  # width of the scale, its numbers and the gap before it
NARROWEST = 440  # the longest note fits in one line
Colour = tuple[int, int, int]


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
    width = max(NUMBERS + heads * cell + SCALE, NARROWEST, ceil(length(title, TITLE)))
    lines = [line for note in notes for line in wrapped(note, width)]
    top = MARGIN + TITLE + 12 + LINE * len(lines) + 2 * LINE
    sheet = Sheet(width + 2 * MARGIN, top + layers * cell + 2 * LINE + MARGIN)
    sheet.text(MARGIN, MARGIN, title, "la", INK, TITLE)
    for place, line in enumerate(lines):
        sheet.text(MARGIN, MARGIN + TITLE + 12 + LINE * place, line, "la", FAINT)
    grid = Grid(MARGIN + NUMBERS, top, cell, layers, heads)
    squares(sheet, grid, head_map, tau)
    axes(sheet, grid)
    scale(sheet, grid, tau)
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


def wrapped(text: str, width: float) -> list[str]:
    """A note's lines, none wider than `width` unless it is one word."""
    lines: list[str] = []
    for word in text.split():
        if lines and length(f"{lines[-1]} {word}", SMALL) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def length(text: str, size: int) -> float:
    """How wide a text is on the sheet; taken at the size it is drawn in, as small letters are spaced more coarsely."""
    return ImageFont.load_default(size * FINE).getlength(text) / FINE


class Sheet:
    """A page to draw on in whole pixels, kept FINE times as large."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width * FINE, height * FINE), PAPER)
        self.pen = ImageDraw.Draw(self.image)

    def box(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        self.pen.rectangle(self._corners(x, y, x + width, y + height), colour)

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.pen.ellipse(self._corners(x - radius, y - radius, x + radius, y + radius), colour)

    def text(self, x: float, y: float, text: str, anchor: str, colour: Colour = INK, size: int = SMALL) -> None:
        """anchor: as Pillow names them, 'la' for left and top, 'mm' for the middle."""
        self.pen.text((x * FINE, y * FINE), text, colour, ImageFont.load_default(size * FINE), anchor)

    @staticmethod
    def _corners(left: float, top: float, right: float, bottom: float) -> tuple[float, float, float, float]:
        # Pillow draws the last pixel too
        return left * FINE, top * FINE, right * FINE - 1, bottom * FINE - 1


@dataclass(frozen=True)
class Grid:
    """Where the squares lie on the sheet."""

    left: int
    top: int
    cell: int
    layers: int
    heads: int

    @property
    def right(self) -> int:
        return self.left + self.heads * self.cell

    @property
    def bottom(self) -> int:
        return self.top + self.layers * self.cell


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


def axes(sheet: Sheet, grid: Grid) -> None:
    middle = (grid.cell - 1) / 2
    for layer in range(0, grid.layers, every(grid.layers)):
        sheet.text(grid.left - 9, grid.top + layer * grid.cell + middle, str(layer), "rm")
    for head in range(0, grid.heads, every(grid.heads)):
        sheet.text(grid.left + head * grid.cell + middle, grid.bottom + 7, str(head), "ma")
    sheet.text(grid.left - 9, grid.top - LINE, "layer", "ra", FAINT)
    sheet.text(grid.right - 1, grid.bottom + 7 + LINE, "head", "ra", FAINT)


def every(count: int) -> int:
    """How many squares lie between two numbers on an axis."""
    return 1 if count <= 8 else 2 if count <= 16 else 4 if count <= 32 else 8


def scale(sheet: Sheet, grid: Grid, tau: float) -> None:
    left, height = grid.right + 24, grid.bottom - 1 - grid.top
    for line, (red, green, blue) in enumerate(heat(np.linspace(1, 0, height)).tolist()):
        sheet.box(left, grid.top + line, 16, 1, (red, green, blue))
    for share, label in ((0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1")):
        if abs(share - tau) * height > LINE:
            sheet.text(left + 24, grid.bottom - 1 - share * height, label, "lm", FAINT)
    at = grid.bottom - 1 - tau * height
    sheet.box(left - 3, at - 1, 22, 2, INK)
    sheet.text(left + 24, at, f"tau {tau:g}", "lm")
