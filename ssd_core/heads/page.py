"""What the pictures of heads share: a sheet with words, layers down, heads across, and a scale of colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .colours import heat

FINE = 4  # drawn so much larger and then averaged, which smooths letters and dots
PAPER, INK, FAINT = (252, 251, 248), (38, 34, 44), (118, 112, 122)
TITLE, SMALL = 22, 13  # font sizes
LINE = 19  # between lines of small text
MARGIN = 28
NUMBERS = 40  # width of the layers' numbers
SCALE = 92  # width of the scale, its numbers and the gap before it
NARROWEST = 440  # the longest note fits in one line
Colour = tuple[int, int, int]


def page(title: str, notes: Sequence[str], width: int, height: int) -> tuple[Sheet, int]:
    """A sheet with words at its top, and where below them the room of `width` x `height` begins that was asked for."""
    width = max(width, NARROWEST, ceil(length(title, TITLE)))
    lines = [line for note in notes for line in wrapped(note, width)]
    top = MARGIN + TITLE + 12 + LINE * len(lines) + 2 * LINE
    sheet = Sheet(width + 2 * MARGIN, top + height + MARGIN)
    sheet.text(MARGIN, MARGIN, title, "la", INK, TITLE)
    for place, line in enumerate(lines):
        sheet.text(MARGIN, MARGIN + TITLE + 12 + LINE * place, line, "la", FAINT)
    return sheet, top


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

    def paste(self, x: int, y: int, width: int, height: int, pixels: npt.NDArray[np.uint8]) -> None:
        """Pixels [rows, columns, 3], stretched to a box without smoothing."""
        stretched = Image.fromarray(pixels).resize((width * FINE, height * FINE), Image.Resampling.NEAREST)
        self.image.paste(stretched, (x * FINE, y * FINE))

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


def axes(sheet: Sheet, grid: Grid) -> None:
    middle = (grid.cell - 1) / 2
    for layer in range(0, grid.layers, every(grid.layers)):
        sheet.text(grid.left - 9, grid.top + layer * grid.cell + middle, str(layer), "rm")
    for head in range(0, grid.heads, every(grid.heads)):
        sheet.text(grid.left + head * grid.cell + middle, grid.bottom + 7, str(head), "ma")
    sheet.text(grid.left - 9, grid.top - LINE, "layer", "ra", FAINT)
    sheet.text(grid.right - 1, grid.bottom + 7 + LINE, "head", "ra", FAINT)


def side_of(layers: int, heads: int, parts: int) -> int:
    """Pixels of a head's square that shows `parts` things side by side, a whole number of pixels each."""
    return max(min(96, 672 // max(layers, heads)) // parts, 1) * parts


def every(count: int) -> int:
    """How many squares lie between two numbers on an axis."""
    return 1 if count <= 8 else 2 if count <= 16 else 4 if count <= 32 else 8


def scale(sheet: Sheet, grid: Grid, labels: Mapping[float, str]) -> None:
    """The colours of 0..1 from bottom to top, right of the grid, and what some of them stand for."""
    left, height = grid.right + 24, grid.bottom - 1 - grid.top
    for line, (red, green, blue) in enumerate(heat(np.linspace(1, 0, height)).tolist()):
        sheet.box(left, grid.top + line, 16, 1, (red, green, blue))
    for place, label in labels.items():
        sheet.text(left + 24, grid.bottom - 1 - place * height, label, "lm", FAINT)
