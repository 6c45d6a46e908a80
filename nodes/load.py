from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..ssd_core.models.placement import choose_dtype
from ..ssd_core.models.small import possible_weights
from . import folders, quantized
from .held import Held
from .hub import complete, download
from .links import CATEGORY, JanusModel

PRECISIONS = ["auto", "bf16", "fp16", "fp32"]


def weights_here() -> list[str]:
    """What weights can be kept in on the device that ComfyUI computes on."""
    device = management.get_torch_device()
    dtype = choose_dtype("auto", device)
    auto, *small = possible_weights(device, dtype)
    return [auto, *quantized.possible(device, dtype), *small]


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
                    "embedded and draws coloured shapes. download fetches from Hugging Face when the node runs, once.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="auto is bf16 on a GPU that computes in it, fp16 on others; on the processor bf16 where "
                    "the file and the processor have it, else fp32.",
                ),
                io.Combo.Input(
                    "weights",
                    options=weights_here(),
                    default="auto",
                    optional=True,
                    tooltip="What the decoder's matrices are kept in: auto is the precision, or what a quantized file "
                    "has; full is always the precision; fp8 and int8 are a byte a number, int4 and nf4 half a byte. "
                    "Only what works here is listed; nf4 where bitsandbytes is installed.",
                ),
            ],
            outputs=[JanusModel.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str | None = None, **_: Any) -> str:
        """What the choice of a model stands for on the disk; ComfyUI tells no choice that comes over a link."""
        return folders.fingerprint(folders.found().get(model or ""))

    @classmethod
    def execute(cls, model: str, precision: str, weights: str = "auto", **_: Any) -> io.NodeOutput:
        path = cls.fetched(folders.DOWNLOADS[model]) if model in folders.DOWNLOADS else folders.path_of(model)
        return io.NodeOutput(Held(path, precision, weights))

    @classmethod
    def fetched(cls, name: str) -> str:
        """The folder of a model from the hub, which is fetched first unless it is there."""
        folder = folders.folder_for(name)
        if not complete(folder):
            bar = ProgressBar(1, node_id=cls.hidden.unique_id)
            download(name, folder, bar.update_absolute, management.throw_exception_if_processing_interrupted)
        return str(folder)
