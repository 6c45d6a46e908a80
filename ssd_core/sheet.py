"""A contact sheet: pictures in a table, with words above the columns and beside the rows."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .heads.page import FAINT, INK, LINE, PAPER, SMALL, wrapped

LEAST = 192  # pixels that a picture is wide at least
GAP = 14
SIDE = 180  # width of the words beside a row


def contact_sheet(
    columns: Sequence[str], rows: Sequence[str], pictures: Sequence[Sequence[Image.Image]]
) -> Image.Image:
    """Lay out pictures[row][column], all of one size; small ones are enlarged by a whole factor, pixel by pixel."""
    factor = -(-LEAST // pictures[0][0].width)
    width, height = (side * factor for side in pictures[0][0].size)
    heads, sides = [lines(column, width) for column in columns], [lines(row, SIDE) for row in rows]
    lefts = [GAP + SIDE + GAP + column * (width + GAP) for column in range(len(columns))]
    top = GAP + max(map(len, heads)) * LINE + GAP
    pitch = max(height, *(len(side) * LINE for side in sides)) + GAP
    sheet = Image.new("RGB", (lefts[-1] + width + GAP, top + len(rows) * pitch), PAPER)
    pen = ImageDraw.Draw(sheet)
    for left, head in zip(lefts, heads, strict=True):
        write(pen, left, GAP, head)
    for row, side in enumerate(sides):
        write(pen, GAP, top + row * pitch, side)
        for left, picture in zip(lefts, pictures[row], strict=True):
            y = top + row * pitch
            pen.rectangle((left - 1, y - 1, left + width, y + height), outline=FAINT)  # pictures may be white
            sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), (left, y))
    return sheet


def lines(text: str, width: int) -> list[str]:
    """A text's own lines, broken where they are wider than `width` pixels."""
    return [line for own in text.splitlines() for line in wrapped(own, width)]


def write(pen: ImageDraw.ImageDraw, x: int, y: int, words: Sequence[str]) -> None:
    """Put lines of words on the sheet, the first at the top."""
    for place, line in enumerate(words):
        pen.text((x, y + place * LINE), line, INK, ImageFont.load_default(SMALL))
