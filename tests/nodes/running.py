"""Running a node as ComfyUI does."""

from __future__ import annotations

from typing import Any


def defaults(node: Any) -> dict[str, Any]:
    """What the widgets of a node hold when it is new; a choice of several sets of widgets as ComfyUI passes it."""
    given: dict[str, Any] = {}
    for own in node.define_schema().inputs:
        if own.kind == "DynamicCombo":
            option = own.options["options"][0]
            given[own.id] = {own.id: option.key, **{inner.id: inner.options["default"] for inner in option.inputs}}
        elif "default" in own.options:
            given[own.id] = own.options["default"]
    return given


def run(node: Any, **given: Any) -> Any:
    """What comes of a node. A choice that is none of its options is dropped without a word, as ComfyUI does."""
    passed = defaults(node) | given
    for own in node.define_schema().inputs:
        if own.kind == "DynamicCombo":
            keys = [option.key for option in own.options["options"]]
            if passed[own.id][own.id] not in keys:
                del passed[own.id]
    return node.execute(**passed)
