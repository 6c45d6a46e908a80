from __future__ import annotations

from typing import Any

import comfy.model_management as management
import torch
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..ssd_core.errors import OutOfMemoryError, UserError
from ..ssd_core.loop import Result, generate, paint
from ..ssd_core.memory import Memory, largest_batch, plan
from ..ssd_core.models.base import Geometry
from ..ssd_core.pictures import mosaic, to_pil
from ..ssd_core.policies import Policy
from ..ssd_core.start import keep_of, kept_tokens
from ..ssd_core.tokens import UNDRAWN
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
                JanusModel.Input("model", tooltip="What draws."),
                KVPolicy.Input("policy", optional=True, tooltip="How the cache is kept small; without one, in full."),
                io.String.Input(
                    "prompt", multiline=True, default="a red circle and a blue ring", tooltip="What to draw."
                ),
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
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=10.0,
                    step=0.01,
                    tooltip="Above 1 the draw is bolder, below 1 it keeps to what is likely.",
                ),
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
                JanusTokens.Input(
                    "start",
                    optional=True,
                    tooltip="Tokens of pictures to begin with, one for all or as many as images; keep_rows and mask "
                    "say what of them stays.",
                ),
                io.Int.Input(
                    "keep_rows",
                    default=0,
                    min=0,
                    max=1024,
                    optional=True,
                    tooltip="So many rows of start's tokens stay, from the top; what is below is drawn.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White is drawn anew, token by token from the top; each sees only what comes before it.",
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
        start: Tensor | None = None,
        keep_rows: int = 0,
        mask: Tensor | None = None,
        **_: Any,
    ) -> io.NodeOutput:
        keep = keep_from(model.model.geometry, start, keep_rows, mask)
        kept = kept_tokens(model.model.geometry, start, keep, images)
        length = len(model.model.encode(prompt))
        memory = plan(model.model, policy, images, length, guidance)
        ready = model.on_device(memory.peak_bytes - memory.weights_bytes)
        geometry = ready.geometry
        bar = ProgressBar(geometry.rows, node_id=cls.hidden.unique_id)
        meter = Meter(cls.hidden, model.device)

        def on_row(row: int, tokens: Tensor, held: Memory) -> None:
            picture = None
            if preview and (row + 1) % preview == 0:
                undrawn = tokens.new_full((images, geometry.tokens), UNDRAWN) if kept is None else kept.to(tokens)
                so_far = torch.cat([tokens, undrawn[:, tokens.shape[1] :]], 1)[:SHOWN]
                picture = ("JPEG", mosaic(to_pil(paint(ready, so_far))), PREVIEW)
            bar.update_absolute(row + 1, geometry.rows, picture)
            meter.row(row + 1, tokens.numel(), held)

        try:
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
                start=start,
                keep=keep,
                on_row=on_row,
                check=management.throw_exception_if_processing_interrupted,
            )
        except OutOfMemoryError as error:
            free = memory.weights_bytes + int(management.get_free_memory(model.device))
            fit = min(images - 1, largest_batch(model.model, policy, free, length, guidance))
            raise UserError(f"{str(error).removesuffix('.')}: {fit or 'not one'} would fit now.") from None
        report = report_of(model, result)
        return io.NodeOutput(result.images, result.tokens, report, ui=shown(cls.hidden, report))


def keep_from(geometry: Geometry, start: Tensor | None, rows: int, mask: Tensor | None) -> Tensor | None:
    """Which tokens of `start` stay; raises UserError where one input has no effect without another."""
    if start is None:
        if rows or mask is not None:
            raise UserError("keep_rows and mask say what stays of a picture; connect its tokens to start.")
        return None
    if not rows and mask is None:
        raise UserError("start has no effect unless something of it stays; set keep_rows or connect a mask.")
    return keep_of(geometry, rows, mask)


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
