from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..ssd_core.loop import UNDRAWN, Result, generate, paint
from ..ssd_core.memory import Memory, plan
from ..ssd_core.pictures import mosaic, to_pil
from ..ssd_core.policies import Policy
from .held import Held, free_bytes
from .links import CATEGORY, JanusModel, JanusTokens, KVPolicy, KVReport
from .meter import Meter, shown

PREVIEW = 512  # pixels along the longer side
SHOWN = 4  # pictures of a batch in a preview; each is decoded anew every time


class Sampler(io.ComfyNode):
    """Draws."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusSampler",
            display_name="Janus-Pro Sampler",
            category=CATEGORY,
            description="Draws pictures token by token, over a cache that keeps what its policy says.",
            search_aliases=["Janus", "text to image", "generate"],
            inputs=[
                JanusModel.Input("model"),
                KVPolicy.Input("policy", optional=True, tooltip="How the cache is kept small; without one, in full."),
                io.String.Input("prompt", multiline=True, default="a red circle and a blue ring"),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    tooltip="What guidance leads away from; empty is the model's own unconditional prompt.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Picture k is drawn with seed + k, whatever is drawn beside it.",
                ),
                io.Int.Input("images", default=1, min=1, max=1024, tooltip="Pictures drawn at once."),
                io.Float.Input(
                    "guidance",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How much the prompt counts; 1 switches guidance off and halves the work.",
                ),
                io.Float.Input("temperature", default=1.0, min=0.01, max=10.0, step=0.01),
                io.Int.Input("top_k", default=0, min=0, max=65536, tooltip="Only the k likeliest tokens; 0 is all."),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Only the likeliest tokens of this share",
                ),
                io.Int.Input(
                    "preview", default=1, min=0, max=1024, tooltip="Show the picture every so many rows; 0 is never."
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                JanusTokens.Output(display_name="tokens"),
                KVReport.Output(display_name="report"),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt, io.Hidden.extra_pnginfo],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Held,
        prompt: str,
        negative: str,
        seed: int,
        images: int,
        guidance: float,
        temperature: float,
        top_k: int,
        top_p: float,
        preview: int,
        policy: Policy | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        memory = plan(model.model, policy, images, len(model.model.encode(prompt)), guidance)
        ready = model.on_device(memory.peak_bytes - memory.weights_bytes)
        geometry = ready.geometry
        bar = ProgressBar(geometry.rows, node_id=cls.hidden.unique_id)
        meter = Meter(cls.hidden, model.device)

        def on_row(row: int, tokens: Tensor, held: Memory) -> None:
            picture = None
            if preview and (row + 1) % preview == 0:
                undrawn = tokens.new_full((min(images, SHOWN), geometry.tokens), UNDRAWN)
                undrawn[:, : tokens.shape[1]] = tokens[:SHOWN]
                picture = ("JPEG", mosaic(to_pil(paint(ready, undrawn))), PREVIEW)
            bar.update_absolute(row + 1, geometry.rows, picture)
            meter.row(row + 1, tokens.numel(), held)

        result = generate(
            ready,
            [prompt],
            policy,
            images_per_prompt=images,
            seed=seed,
            guidance=guidance,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            negative=negative or None,
            on_row=on_row,
            check=management.throw_exception_if_processing_interrupted,
        )
        report = report_of(model, result)
        return io.NodeOutput(result.images, result.tokens, report, ui=shown(cls.hidden, report))


def report_of(model: Held, result: Result) -> dict[str, Any]:
    """What was drawn, in what memory and time, as plain numbers and words."""
    timing = result.timing
    return {
        "model": model.model.name,
        "device": str(model.device),
        "dtype": str(model.model.dtype).removeprefix("torch."),
        "images": len(result.images),
        "seeds": [int(seed) for seed in result.seeds],
        "memory": result.memory.as_dict(),
        "free_bytes": free_bytes(model.device),
        "seconds": {"prefill": timing.prefill, "decode": timing.decode, "pictures": timing.pictures},
        "tokens_per_second": result.tokens_per_second,
        "versions": {"torch": torch.__version__},
    }
