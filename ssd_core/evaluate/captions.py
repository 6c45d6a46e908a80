"""What a caption of the embedded model's world asks for."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .scenes import BACKGROUNDS, COLOURS, NUMBERS, PLURAL, RELATIONS, SHAPES, article


@dataclass(frozen=True)
class Asked:
    """An object a caption names; its colour is None where any will do."""

    shape: str
    colour: str | None


@dataclass(frozen=True)
class Request:
    """All that a caption asks for: the first of two objects stands in the relation to the second, if one is named."""

    task: str
    objects: tuple[Asked, ...]
    relation: str | None
    background: str | None


_OBJECTS = [Asked(shape, colour) for shape in SHAPES for colour in (None, *COLOURS)]
_ONE = {article(f"{asked.colour or ''} {asked.shape}".strip()): asked for asked in _OBJECTS}
_SEVERAL = {
    " ".join(filter(None, (word, asked.colour, PLURAL[asked.shape]))): (asked,) * count
    for word, count in NUMBERS.items()
    for asked in _OBJECTS
}
_GROUNDS = {f" on {article(name)} background": name for name in BACKGROUNDS}


def parse(caption: str) -> Request:
    """Read a caption as `scenes` writes them. Raises UserError for any other text."""
    words, background = caption, None
    for ending, name in _GROUNDS.items():
        if caption.endswith(ending):
            words, background = caption.removesuffix(ending), name
    if words in _SEVERAL:
        return Request("counting", _SEVERAL[words], None, background)
    if words in _ONE:
        return Request("colours" if _ONE[words].colour else "single", (_ONE[words],), None, background)
    for link in ("and", *RELATIONS):
        first, _, second = (_ONE.get(part) for part in words.partition(f" {link} "))
        if first and second and bool(first.colour) == bool(second.colour):
            if link != "and":
                return Request("position", (first, second), link, background)
            return Request("attributes" if first.colour else "two", (first, second), None, background)
    raise UserError(f'{caption[:80]!r} is no caption of ShapesEval: write one like "a red circle left of a blue ring".')
