"""What ComfyUI's /object_info says of the pack's nodes, made from their schemas."""

from __future__ import annotations

from typing import Any

from tests.nodes.stand_in import Input, Schema

SPELT = {"Combo": "COMBO", "DynamicCombo": "COMFY_DYNAMICCOMBO_V3"}  # the other types are their names in capitals


def type_of(kind: str) -> str:
    return SPELT.get(kind, kind.upper())


def described(own: Input) -> list[Any]:
    """An input: its type and what its widget must know."""
    options = {name: value for name, value in own.options.items() if name != "optional"}
    if own.kind == "DynamicCombo":
        choices = [{"key": choice.key, "inputs": inputs(choice.inputs)} for choice in options["options"]]
        options = options | {"options": choices}
    return [type_of(own.kind), options]


def inputs(all_of_them: list[Input]) -> dict[str, dict[str, Any]]:
    """Inputs by whether they must be there."""
    by_need: dict[str, dict[str, Any]] = {"required": {}}
    for own in all_of_them:
        need = "optional" if own.options.get("optional") else "required"
        by_need.setdefault(need, {})[own.id] = described(own)
    return by_need


def object_info(schemas: list[Schema]) -> dict[str, Any]:
    """The nodes by their ids."""
    nodes: dict[str, Any] = {}
    for schema in schemas:
        parts, given = schema.parts, inputs(schema.inputs)
        outputs = parts.get("outputs", [])
        kinds = [type_of(output.kind) for output in outputs]
        nodes[schema.node_id] = {
            "input": given,
            "input_order": {need: list(own) for need, own in given.items()},
            "output": kinds,
            "output_is_list": [False] * len(kinds),
            "output_name": [
                output.options.get("display_name", kind) for output, kind in zip(outputs, kinds, strict=True)
            ],
            "name": schema.node_id,
            "display_name": parts["display_name"],
            "description": parts["description"],
            "category": parts["category"],
            "python_module": "custom_nodes.ssd-janus",
            "output_node": parts.get("is_output_node", False),
            "search_aliases": parts["search_aliases"],
        }
    return nodes


def flat(given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The inputs of a node, needed or not."""
    return {name: own for by_need in given.values() for name, own in by_need.items()}


def chosen(given: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """The inputs that come with a choice, by names such as "method.budget", each as all choices that have it say."""
    found: dict[str, list[Any]] = {}
    for name, (kind, options) in flat(given).items():
        if kind == SPELT["DynamicCombo"]:
            for choice in options["options"]:
                for inner, own in flat(choice["inputs"]).items():
                    found.setdefault(f"{name}.{inner}", []).append(own)
    return found
