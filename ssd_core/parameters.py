"""What the dataclasses of policies say of their parameters, for whoever offers them: the command line, the nodes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from .errors import UserError
from .heads.headmap import HeadMap


class Reader(NamedTuple):
    """How text becomes a value of some type: `read` raises ValueError for text that is none."""

    metavar: str
    words: str
    read: Callable[[str], Any]


READERS = {
    int: Reader("INTEGER", "a whole number", int),
    float: Reader("FLOAT", "a number such as 0.2", float),
    HeadMap: Reader("FILE", "a head map's file", HeadMap.load),
}


def reader_of(kind: Any) -> Reader:
    """The reader of a type; a Literal is the words it lists."""
    if get_origin(kind) is not Literal:
        return READERS[kind]
    words: tuple[str, ...] = get_args(kind)
    by_word = {word: word for word in words}

    def read(text: str) -> str:
        if text not in by_word:
            raise ValueError
        return text

    return Reader("|".join(words), " or ".join(f"'{word}'" for word in words), read)


def kinds_of(hint: Any) -> list[Any]:
    """The types that a type hint allows, without None."""
    union = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [kind for kind in union if kind is not NoneType]


def descriptions(cls: type) -> dict[str, str]:
    """What a docstring says of each field, in paragraphs that begin with its name and a colon."""
    text = inspect.cleandoc(cls.__doc__ or "")
    found = re.findall(r"^(\w+): (.*(?:\n +.*)*)", text, re.MULTILINE)
    return {name: " ".join(about.split()).removesuffix(".") for name, about in found}


def read(text: str, kinds: Sequence[Any], called: str) -> Any:
    """The value of a text; raises UserError, which says what the parameter is called, for text of none of the kinds."""
    readers = [reader_of(kind) for kind in kinds]
    for reader in readers:
        try:
            return reader.read(text)
        except UserError:
            raise
        except ValueError:
            continue
    raise UserError(f"{called} takes {' or '.join(reader.words for reader in readers)}, not {text!r}.")


def whole_first(kinds: Sequence[Any]) -> tuple[Any, ...]:
    """The kinds in the order in which a text is tried for them: 115 is a count, not a share."""
    return tuple(sorted(kinds, key=lambda kind: kind is float))
