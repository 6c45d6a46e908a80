"""Whether workflows fit the nodes: what ComfyUI would refuse, and what it would pass over in silence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.nodes.object_info import SPELT, flat

Info = dict[str, Any]
KINDS = {"INT": (int,), "FLOAT": (int, float), "STRING": (str,), "BOOLEAN": (bool,)}
VIRTUAL = {"MarkdownNote", "Note"}  # nodes of the page alone
CONTROL = "control_after_generate"  # the page's own widget after a seed


def faults(prompt: dict[str, Any], info: Info) -> Iterator[str]:
    """What is wrong with a prompt in the API's format, a sentence each."""
    for name, node in prompt.items():
        kind, given = node["class_type"], node["inputs"]
        if kind not in info:
            yield f"{name}: there is no node {kind}"
            continue
        needed, known = expected(info[kind], given)
        yield from (f"{name}: {kind} needs {own}" for own in needed if own not in given)
        for own, value in given.items():
            if own not in known:
                yield f"{name}: {kind} has no input {own}"
            elif isinstance(value, list):
                yield from (f"{name}.{own}: {fault}" for fault in link_faults(value, known[own], prompt, info))
            else:
                yield from (f"{name}.{own}: {fault}" for fault in value_faults(value, known[own]))


def expected(node: Info, given: dict[str, Any]) -> tuple[list[str], Info]:
    """The names of a node's needed inputs, and all its inputs, with those that come with what is chosen."""
    needed, known = list(node["input"].get("required", {})), flat(visible(node["input"]))
    for name, (kind, *options) in list(known.items()):
        if kind == SPELT["DynamicCombo"]:
            for choice in options[0]["options"]:
                if choice["key"] == given.get(name):
                    needed += [f"{name}.{inner}" for inner in choice["inputs"].get("required", {})]
                    known |= {f"{name}.{inner}": own for inner, own in flat(choice["inputs"]).items()}
    return needed, known


def visible(given: dict[str, Info]) -> dict[str, Info]:
    """Inputs without those that ComfyUI fills in itself."""
    return {need: own for need, own in given.items() if need != "hidden"}


def link_faults(link: list[Any], spec: list[Any], prompt: dict[str, Any], info: Info) -> Iterator[str]:
    """What is wrong with a link [node, output] to an input."""
    source, slot = link
    outputs = info.get(prompt.get(source, {}).get("class_type"), {}).get("output", [])
    if slot >= len(outputs):
        yield f"there is no output {slot} of {source}"
    elif outputs[slot] != spec[0] and spec[0] != "*":
        yield f"takes {spec[0]}, not {outputs[slot]}"


def value_faults(value: Any, spec: list[Any]) -> Iterator[str]:
    """What is wrong with the value of a widget."""
    kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
    choices = options_of(spec)
    if choices is not None:
        if value not in choices:
            silent = ", and is dropped in silence" if kind == SPELT["DynamicCombo"] else ""
            yield f"{value!r} is none of {choices}{silent}"
    elif kind not in KINDS:
        yield f"takes a link to {kind}, not {value!r}"
    elif not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
        yield f"takes {kind}, not {value!r}"
    elif kind in ("INT", "FLOAT") and not options.get("min", value) <= value <= options.get("max", value):
        yield f"{value} is not in {options.get('min')}..{options.get('max')}"


def options_of(spec: list[Any]) -> list[Any] | None:
    """What a combo offers; None for inputs that are none."""
    kind, options = spec[0], (spec[1] if len(spec) > 1 else {})
    if isinstance(kind, list):  # as old nodes say it
        return kind
    if kind == SPELT["DynamicCombo"]:
        return [choice["key"] for choice in options["options"]]
    return options["options"] if kind == SPELT["Combo"] else None


def widgets(node: Info, values: dict[str, Any]) -> list[str]:
    """The names of a node's widgets in the page, in their order."""
    names = []
    for name, spec in flat(visible(node["input"])).items():
        if spec[0] in KINDS or options_of(spec) is not None:
            names.append(name)
            names += [inner for inner in expected(node, values)[1] if inner.startswith(f"{name}.")]
            if len(spec) > 1 and spec[1].get(CONTROL):
                names.append(CONTROL)
    return names


def as_prompt(graph: dict[str, Any], info: Info) -> dict[str, Any]:
    """A workflow as the page saves it, in the API's format: what the page would send."""
    links = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    prompt = {}
    for node in graph["nodes"]:
        if node["type"] not in VIRTUAL:
            values = (
                dict(zip(names_of(node, info), node["widgets_values"], strict=True))
                if node.get("widgets_values")
                else {}
            )
            linked = {own["name"]: links[own["link"]] for own in node["inputs"] if own["link"] is not None}
            inputs = {name: value for name, value in values.items() if name != CONTROL} | linked
            prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def names_of(node: dict[str, Any], info: Info) -> list[str]:
    """The names of the widgets whose values a saved node lists."""
    own, values = info[node["type"]], node["widgets_values"]
    first = widgets(own, {})
    return widgets(own, dict(zip(first, values, strict=False)))
