"""What ComfyUI's server says of the nodes under /object_info, made from their schemas without ComfyUI.

tests/comfyui holds it against the real server's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.nodes import stand_in

TYPES = {
    **{name: name.upper() for name in ("Boolean", "Combo", "Float", "Image", "Int", "Mask", "String")},
    "DynamicCombo": "COMFY_DYNAMICCOMBO_V3",
}
Spec = list[Any]  # of an input: [type, options]


def nodes(models: Path) -> list[Any]:
    """The pack's nodes, beside a folder of models."""
    pack, _ = stand_in.load_pack(models)
    listed: list[Any] = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    return listed


def object_info(models: Path) -> dict[str, dict[str, Any]]:
    """All nodes by their ids."""
    return {schema.node_id: node_info(schema) for schema in (node.define_schema() for node in nodes(models))}


def node_info(schema: stand_in.Schema) -> dict[str, Any]:
    """What the server says of a node."""
    outputs = schema.parts["outputs"]
    return {
        "input": inputs_info(schema.inputs),
        "output": [type_of(type(output).__name__.removesuffix("Output")) for output in outputs],
        "output_name": [output.options["display_name"] for output in outputs],
        "output_tooltips": [output.options.get("tooltip") for output in outputs],
        "output_node": schema.parts.get("is_output_node", False),
        "name": schema.node_id,
        **{part: schema.parts[part] for part in ("display_name", "description", "category")},
        "python_module": "custom_nodes.ssd-janus",
    }


def inputs_info(inputs: list[stand_in.Input]) -> dict[str, dict[str, Spec]]:
    """Inputs by whether they are needed, in their order."""
    groups: dict[str, dict[str, Spec]] = {"required": {}}
    for own in inputs:
        options = {name: value for name, value in own.options.items() if name != "optional"}
        if own.kind == "DynamicCombo":
            choices = options["options"]
            options["options"] = [{"key": each.key, "inputs": inputs_info(each.inputs)} for each in choices]
        group = "optional" if own.options.get("optional") else "required"
        groups.setdefault(group, {})[own.id] = [type_of(own.kind), options]
    return groups


def type_of(kind: str) -> str:
    return TYPES.get(kind, kind)


def flat(inputs: dict[str, dict[str, Spec]]) -> dict[str, Spec]:
    """The inputs of all groups."""
    return {name: spec for group in inputs.values() for name, spec in group.items()}


def choices(inputs: dict[str, dict[str, Spec]]) -> dict[str, list[Spec]]:
    """The inputs that come with a choice of another, as "method.budget", each with the specs it has in the choices."""
    found: dict[str, list[Spec]] = {}
    for name, (kind, options) in flat(inputs).items():
        if kind == TYPES["DynamicCombo"]:
            for choice in options["options"]:
                for inner, spec in flat(choice["inputs"]).items():
                    found.setdefault(f"{name}.{inner}", []).append(spec)
    return found
