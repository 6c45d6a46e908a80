from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from . import folders
from .held import Held
from .links import CATEGORY, JanusModel

PRECISIONS = ["auto", "bf16", "fp16", "fp32"]


class Load(io.ComfyNode):
    """Reads a Janus that draws."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusLoad",
            display_name="Load Janus-Pro",
            category=CATEGORY,
            description="Reads a Janus-Pro from models/janus, or the small model that comes with this pack.",
            search_aliases=["Janus", "DeepSeek", "autoregressive"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=folders.names(),
                    default=folders.EMBEDDED,
                    tooltip="Folders and .safetensors files in models/janus and models/Janus-Pro. janus-shapes is "
                    "embedded and draws coloured shapes.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="auto is bf16 on a GPU that computes in it, fp16 on others, fp32 on the processor.",
                ),
            ],
            outputs=[JanusModel.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, precision: str, **_: Any) -> io.NodeOutput:
        return io.NodeOutput(Held(folders.path_of(model), precision))
