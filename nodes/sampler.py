from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy.utils import ProgressBar
from comfy_api.latest import io
from torch import Tensor

from ..ssd_core.errors import OutOfMemoryError, UserError
from ..ssd_core.loop import generate
from ..ssd_core.memory import Memory, largest_batch, plan
from ..ssd_core.models.base import Geometry
from ..ssd_core.policies import Full, Policy
from ..ssd_core.report import report
from ..ssd_core.start import keep_of, kept_tokens
from . import asked
from .held import Held, free_bytes
from .links import CATEGORY, JanusModel, JanusTokens, KVPolicy, KVReport
from .meter import Meter, is_watched, shown
from .preview import Previews


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
                asked.prompt("What to draw."),
                asked.negative("What guidance leads away from; empty is the model's own unconditional prompt."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Picture k is drawn with seed + k, whatever is drawn beside it.",
                ),
                asked.images(default=1),
                asked.guidance("How much the prompt counts; 1 switches guidance off and halves the work."),
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
                    "preview",
                    default=1,
                    min=0,
                    max=1024,
                    tooltip="Show the picture every so many rows, or less often where that takes too long; 0 is never.",
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
                asked.kv_dtype(
                    "What keys and values are kept in: auto is the model's precision, int8 and fp8 take half of bf16's "
                    "memory."
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
        kv_dtype: str = "auto",
        **_: Any,
    ) -> io.NodeOutput:
        if images < 1:
            raise UserError(
                f"{images} images were asked for; where Plan KV Memory says so, not even one fits, so lower the budget "
                "or give the plan more vram."
            )
        keep = keep_from(model.model.geometry, start, keep_rows, mask)
        kept = kept_tokens(model.model.geometry, start, keep, images)
        policy = (policy or Full()).fit(model.model)
        shows = bool(preview) and is_watched()
        both: dict[str, Any] = {"guidance": guidance, "negative": negative or None, "kv_dtype": kv_dtype}
        planned = both | {"prompt": prompt, "previews": shows}
        memory = plan(model.model, policy, images, **planned)
        ready = model.on_device(memory.peak_bytes - memory.weights_bytes)
        check, rows = management.throw_exception_if_processing_interrupted, ready.geometry.rows
        bar = ProgressBar(rows, node_id=cls.hidden.unique_id)
        meter = Meter(cls.hidden, model.device)
        previews = Previews(ready, preview, kept, check) if shows else None

        def on_row(row: int, tokens: Tensor, held: Memory, tokens_per_second: float | None) -> None:
            bar.update_absolute(row + 1, rows, previews.after(row, tokens) if previews else None)
            meter.row(row + 1, tokens_per_second, held)

        drawing = {"images_per_prompt": images, "seed": seed} | both
        drawing |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        try:
            result = generate(
                ready, [prompt], policy, start=start, keep=keep, on_row=on_row, check=check, previews=shows, **drawing
            )
        except OutOfMemoryError as error:
            free = memory.weights_bytes + int(management.get_free_memory(model.device))
            fit = min(images - 1, largest_batch(model.model, policy, free, **planned))
            raise UserError(f"{str(error).removesuffix('.')}: {fit or 'not one'} would fit now.") from None
        if previews:  # the last one may have been left out, and would stay as it is
            bar.update_absolute(rows, rows, previews.of(result.images))
        told = report(ready, policy, drawing, [prompt] * images, result) | {"free_bytes": free_bytes(model.device)}
        return io.NodeOutput(result.images, result.tokens, told, ui=shown(cls.hidden, told))


def keep_from(geometry: Geometry, start: Tensor | None, rows: int, mask: Tensor | None) -> Tensor | None:
    """Which tokens of `start` stay; raises UserError where one input has no effect without another."""
    if start is None:
        if rows or mask is not None:
            raise UserError("keep_rows and mask say what stays of a picture; connect its tokens to start.")
        return None
    if not rows and mask is None:
        raise UserError("start has no effect unless something of it stays; set keep_rows or connect a mask.")
    return keep_of(geometry, rows, mask)
