"""A run of the nodes, recorded as the messages that ComfyUI sends to the page while it lasts."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

from tests.nodes import stand_in
from tests.tiny import random_map, tiny
from tests.web.graphs import COMPRESSION, GRAPH, READOUT, SAMPLER

Message = tuple[str, dict[str, Any]]
PROMPT = {"prompt_id": "a prompt"}
ROWS = 20  # of the grid


def record(nodes: dict[str, Any]) -> list[Message]:
    """What the page is told of a drawing with a compressed cache: its beginning, the rows' figures, and what the nodes
    show in the end."""
    sys.modules[f"{stand_in.PACK}.nodes.meter"].PAUSE = 0.0  # type: ignore[attr-defined]  # each row, on any machine
    model = tiny(layers=6, heads=8, kv_heads=8, rows=ROWS, columns=20)
    held = SimpleNamespace(model=model, device=model.device, on_device=lambda needed: model)
    server = stand_in.PromptServer.instance
    server.sent.clear()
    messages: list[Message] = [("execution_start", PROMPT)]

    def run(name: str, number: str, **given: Any) -> Any:
        node = nodes[name]
        node.hidden = SimpleNamespace(
            unique_id=number,
            dynprompt=SimpleNamespace(get_display_node_id=str),
            extra_pnginfo={"workflow": {"id": GRAPH}},
        )
        widgets = {own.id: own.options["default"] for own in node.define_schema().inputs if "default" in own.options}
        messages.append(("executing", {"node": number, "display_node": number, **PROMPT}))
        output = node.execute(**widgets | given)
        messages.extend((event, data) for event, data, _ in server.sent)
        server.sent.clear()
        messages.append(("executed", {"node": number, "display_node": number, "output": output.ui, **PROMPT}))
        return output

    run("SSDJanusCompression", COMPRESSION, method={"method": "window", "budget": "0.2"}, model=held)
    # of the pack's own copy of the engine, which knows no other's classes
    policies, headmap = (sys.modules[f"{stand_in.PACK}.ssd_core.{name}"] for name in ("policies", "heads.headmap"))
    policy = policies.SSD(0.2, head_map=headmap.HeadMap(random_map(model.geometry).share))
    report = run("SSDJanusSampler", SAMPLER, model=held, policy=policy, preview=0).args[2]
    run("SSDJanusReadout", READOUT, report=report)
    return [*messages, ("execution_success", PROMPT)]
