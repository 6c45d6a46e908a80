"""Widgets made from the dataclasses of the policies: a new policy, or a new parameter of one, needs no line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from comfy_api.latest import io

from ..ssd_core.errors import UserError
from ..ssd_core.heads.headmap import HeadMap
from ..ssd_core.parameters import descriptions, kinds_of, read, whole_first
from ..ssd_core.policies import DEFAULT, METHODS, Policy

LARGEST = 65536
OWN = "as the method has it"  # the word for None where a widget needs one
YES, NO = "yes", "no"


def options() -> list[io.DynamicCombo.Option]:
    """A choice a method, each with the widgets of its parameters; the first is the default."""
    names = sorted(METHODS, key=lambda name: name != DEFAULT)
    return [io.DynamicCombo.Option(name, widgets(METHODS[name])) for name in names]


def widgets(cls: type) -> list[Any]:
    """The widgets of a dataclass's fields."""
    hints, about = get_type_hints(cls), descriptions(cls)
    return [
        widget(field.name, kinds_of(hints[field.name]), field.default, about.get(field.name, ""))
        for field in fields(cls)
        if HeadMap not in kinds_of(hints[field.name])
    ]


def widget(name: str, kinds: list[Any], default: Any, about: str) -> Any:
    """The widget of a field: a number, a switch, or words."""
    if kinds == [bool]:
        if default is None:
            return io.Combo.Input(name, options=[OWN, YES, NO], default=OWN, tooltip=about)
        return io.Boolean.Input(name, default=default, tooltip=about)
    if default is not None and kinds == [int]:
        return io.Int.Input(name, default=default, min=0, max=LARGEST, tooltip=about)
    if default is None or float not in kinds or int in kinds:
        # numbers of several kinds, or none at all: text says which is meant
        return io.String.Input(name, default=OWN if default is None else str(default), tooltip=about)
    return io.Float.Input(name, default=default, min=0.0, max=float(LARGEST), step=0.01, tooltip=about)


def chosen(choice: dict[str, Any] | None, name: str, keys: Iterable[str]) -> dict[str, Any]:
    """What ComfyUI passes on of a choice between sets of widgets. Raises UserError where it passes on nothing, as it
    does without a word for what is none of the keys: a slip of the pen, or a name that a newer version gave up."""
    if choice is None:
        raise UserError(f"The {name} is none of {', '.join(keys)}; choose one of them.")
    return choice


def policy_of(given: Mapping[str, Any]) -> Policy:
    """The policy of `method` from what its widgets hold. Raises UserError for what it refuses or does not take."""
    cls = METHODS[given["method"]]
    hints = get_type_hints(cls)
    values = {name: value for name, value in given.items() if name != "method"}
    for name in values:
        if name not in hints:
            raise UserError(f"The method {given['method']} takes no {name}; leave it out.")
    return cls(**{name: value_of(name, kinds_of(hints[name]), value) for name, value in values.items()})


def value_of(name: str, kinds: list[Any], given: Any) -> Any:
    """What a widget's value means to a field."""
    if given == OWN:
        return None
    if kinds == [bool]:
        return given if isinstance(given, bool) else given == YES
    if not isinstance(given, str):
        return given
    return read(given.strip(), whole_first(kinds), name)
