"""What a drawing holds, told to the browser that asked for it."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from server import PromptServer

from ..ssd_core.memory import Memory
from .held import free_bytes

EVENT = "ssd-janus.meter"
FIGURES = "ssd_janus"  # their place in what a node shows, its `ui`
PAUSE = 0.1  # seconds between two messages, at least


class Meter:
    """Sends how far a drawing is and what it holds, at most ten times a second. The last word is the node's report."""

    def __init__(self, hidden: Any, device: torch.device) -> None:
        """hidden: a node's; its unique_id, dynprompt and extra_pnginfo are read. device: where it draws."""
        self.node = hidden.dynprompt.get_display_node_id(hidden.unique_id)
        self.workflow = workflow_of(hidden)
        self.device = device
        self.counted: Memory | None = None
        self.memory: dict[str, Any] = {}  # the same, as is told; it hardly ever changes during a drawing
        self.sent = -math.inf

    def row(self, rows: int, tokens_per_second: float | None, memory: Memory) -> None:
        """Tell that so many rows of the grid are done, and how fast tokens are drawn, as the engine counts it."""
        now = time.monotonic()
        if now - self.sent < PAUSE:
            return
        self.sent = now
        if self.counted != memory:
            self.counted, self.memory = memory, memory.as_dict()
        self.send(
            {
                "rows": rows,
                "tokens_per_second": tokens_per_second,
                "free_bytes": free_bytes(self.device),
                "memory": self.memory,
            }
        )

    def send(self, figures: dict[str, Any]) -> None:
        """Send to the client whose prompt runs; one without a connection has no id, and then nobody is told."""
        if is_watched():
            server = PromptServer.instance
            told = {"node": self.node, "workflow": self.workflow, **figures}
            server.send_sync(EVENT, plain(told), server.client_id)


def is_watched() -> bool:
    """Whether a browser, or what else listens, asked for the prompt that runs."""
    return PromptServer.instance.client_id is not None


def shown(hidden: Any, figures: dict[str, Any], text: str | None = None) -> dict[str, Any]:
    """A node's `ui`: figures for the browser's bars, and text for whoever has no browser."""
    ui: dict[str, Any] = {FIGURES: [plain({"workflow": workflow_of(hidden), **figures})]}
    return ui if text is None else {**ui, "text": [text]}


def workflow_of(hidden: Any) -> str | None:
    """The id of the graph that was queued: node ids alone are the same in many graphs. None where the client tells
    none, or nonsense."""
    info = hidden.extra_pnginfo
    workflow = info.get("workflow") if isinstance(info, dict) else None
    own = workflow.get("id") if isinstance(workflow, dict) else None
    return own if isinstance(own, str) else None


def plain(value: Any) -> Any:
    """The value as JSON can hold it: anything else kills ComfyUI's server. What is not finite becomes None.

    Raises TypeError for what is neither number, text, list nor dict, a tensor say.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    raise TypeError(f"The browser cannot be told of a {type(value).__name__}.")
