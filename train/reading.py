"""What a caption asks for, asked of the model at the token that begins the image.

Every image token needs the caption's meaning, and the begin-of-image token is where it can be found ready: one token to
attend to, instead of a sentence to take apart anew. The objects are asked for in the order in which they are drawn, so
that what to draw next is a matter of counting. A prompt of pads asks for nothing.
"""

from __future__ import annotations

from ssd_core.evaluate.captions import parse
from ssd_core.evaluate.scenes import BACKGROUNDS, COLOURS, FORWARD, NUMBERS, RELATIONS, SHAPES

LAYER = 3  # how many of the layers the head sees
NOTHING = 0  # the class of what the caption does not name
KINDS = (1 + len(SHAPES), 1 + len(COLOURS))
# shape and colour of the object drawn first and of the second, how many, relation, background
CLASSES = (*KINDS, *KINDS, 1 + max(NUMBERS.values()), 1 + len(RELATIONS), 1 + len(BACKGROUNDS))


def targets(caption: str) -> list[int]:
    """The classes of a caption, one a question; of an empty one, all NOTHING."""
    if not caption:
        return [NOTHING] * len(CLASSES)
    request = parse(caption)
    named = request.objects[:2] if request.relation in (None, *FORWARD) else request.objects[::-1]
    first, second = named[0], named[1] if len(named) > 1 else None
    return [
        1 + SHAPES.index(first.shape),
        _class(tuple(COLOURS), first.colour),
        1 + SHAPES.index(second.shape) if second else NOTHING,
        _class(tuple(COLOURS), second.colour if second else None),
        len(request.objects),
        _class(RELATIONS, request.relation),
        _class(tuple(BACKGROUNDS), request.background),
    ]


def _class(names: tuple[str, ...], name: str | None) -> int:
    return NOTHING if name is None else 1 + names.index(name)
