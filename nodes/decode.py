from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy_api.latest import io
from torch import Tensor

from ..ssd_core.loop import paint
from ..ssd_core.memory import decoding_bytes
from ..ssd_core.tokens import check_tokens
from .held import Held
from .links import CATEGORY, JanusModel, JanusTokens


class Decode(io.ComfyNode):
    """Turns tokens into pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusDecode",
            display_name="Decode Janus Tokens",
            category=CATEGORY,
            description="Turns tokens into the pictures they stand for; what was never drawn is grey.",
            search_aliases=["VAE decode", "VQ", "tokens to image"],
            inputs=[
                JanusModel.Input("model", tooltip="The model whose tokens they are."),
                JanusTokens.Input("tokens", tooltip="From the sampler, or from Encode Janus Tokens."),
            ],
            outputs=[io.Image.Output(display_name="images")],
        )

    @classmethod
    def execute(cls, model: Held, tokens: Tensor, **_: Any) -> io.NodeOutput:
        check_tokens(model.model.geometry, tokens)
        ready = model.on_device(decoding_bytes(model.model))
        return io.NodeOutput(paint(ready, tokens, check=management.throw_exception_if_processing_interrupted))
