"""Command-line options made from dataclass fields: a new policy, or a new parameter of one, needs no line here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape

from ..parameters import descriptions, kinds_of, read, reader_of, whole_first


@dataclass(frozen=True)
class Parameter:
    """A field of one dataclass or of several that mean the same by it.

    kinds: the types it may have, without None.
    about: what the first dataclass that speaks of it says.
    takers: the names of the dataclasses.
    """

    name: str
    kinds: tuple[Any, ...]
    about: str
    takers: tuple[str, ...]

    @property
    def annotation(self) -> Any:
        """What makes typer offer the option."""
        about = escape(f"{self.about} ({', '.join(filter(None, self.takers))})".removesuffix(" ()").strip())
        if self.kinds == (bool,):
            both = f"{flag(self.name)}/{flag('no_' + self.name)}"
            return Annotated[bool | None, typer.Option(both, help=about, show_default=False)]
        metavar = "|".join(reader.metavar for reader in map(reader_of, self.kinds))
        return Annotated[str | None, typer.Option(flag(self.name), metavar=metavar, help=about, show_default=False)]

    def read(self, given: str | bool) -> Any:
        """The value of what typer passes on; raises UserError for text of none of the kinds."""
        return given if isinstance(given, bool) else read(given, self.kinds, flag(self.name))


def flag(name: str) -> str:
    """How the option of a field is written."""
    return "--" + name.replace("_", "-")


def parameters(dataclasses: Mapping[str, type]) -> dict[str, Parameter]:
    """All fields of some dataclasses, by name."""
    found: dict[str, Parameter] = {}
    for taker, cls in dataclasses.items():
        hints, about = get_type_hints(cls), descriptions(cls)
        for field in fields(cls):
            known = found.get(field.name, Parameter(field.name, (), "", ()))
            kinds = dict.fromkeys((*known.kinds, *kinds_of(hints[field.name])))
            said = known.about or about.get(field.name, "")
            if said and not known.about and type(field.default) in (int, float):
                said += f"; default {field.default}"
            found[field.name] = Parameter(field.name, whole_first(tuple(kinds)), said, (*known.takers, taker))
    return found


def with_options(**groups: Mapping[str, type]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of some dataclasses.

    groups: by the command's own parameter that receives {field: value} of the options that were given.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        offered = {group: parameters(dataclasses) for group, dataclasses in groups.items()}

        @wraps(command)
        def run(**given: Any) -> None:
            for group, known in offered.items():
                texts = {name: given.pop(name) for name in known}
                given[group] = {name: known[name].read(text) for name, text in texts.items() if text is not None}
            command(**given)

        own = inspect.signature(command, eval_str=True).parameters
        made = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=parameter.annotation)
            for known in offered.values()
            for name, parameter in known.items()
        ]
        kept = [own[name].replace(kind=inspect.Parameter.KEYWORD_ONLY) for name in own if name not in groups]
        signature = inspect.Signature(kept + made)
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        return run

    return decorate
