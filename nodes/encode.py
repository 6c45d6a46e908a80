from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy_api.latest import io
from torch import Tensor

from ..ssd_core.encoding import encode
from ..ssd_core.memory import encoding_bytes
from .held import Held
from .links import CATEGORY, JanusModel, JanusTokens


class Encode(io.ComfyNode):
    """Turns pictures into tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusEncode",
            display_name="Encode Janus Tokens",
            category=CATEGORY,
            description="Turns pictures into the tokens that a Janus would draw for them, to go on with or to redraw.",
            search_aliases=["VAE encode", "VQ", "image to tokens"],
            inputs=[
                JanusModel.Input("model", tooltip="The model that is to know the tokens."),
                io.Image.Input("images", tooltip="Of another size than the model's, the middle is taken and resized."),
            ],
            outputs=[JanusTokens.Output(display_name="tokens")],
        )

    @classmethod
    def execute(cls, model: Held, images: Tensor, **_: Any) -> io.NodeOutput:
        ready = model.on_device(encoding_bytes(model.model))
        # resizing with sharp filters leaves colours a little below 0 or above 1
        return io.NodeOutput(encode(ready, images.clamp(0, 1), management.throw_exception_if_processing_interrupted))
