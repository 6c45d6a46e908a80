"""The door through which ComfyUI loads this folder; the engine is `ssd_core`, its nodes are `nodes`."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "web"


async def comfy_entrypoint() -> Any:
    """What ComfyUI asks for the nodes; imported here, because the folder must import where there is no ComfyUI."""
    from .nodes import Pack

    return Pack()
