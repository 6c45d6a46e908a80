from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from ..ssd_core.memory import largest_batch, plan
from ..ssd_core.policies import Full, Policy
from ..ssd_core.words import human, parts, slots
from . import asked
from .held import Held
from .links import CATEGORY, JanusModel, KVPolicy


class Plan(io.ComfyNode):
    """Says what a batch will take, before it is drawn."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusPlan",
            display_name="Plan KV Memory",
            category=CATEGORY,
            description="What a batch takes of memory, previews included, with a policy and in full, and the largest "
            "batch that fits.",
            search_aliases=["memory", "VRAM", "batch"],
            inputs=[
                JanusModel.Input("model", tooltip="What is to draw."),
                KVPolicy.Input("policy", optional=True, tooltip="How the cache is kept small; without one, in full."),
                asked.images(default=4),
                io.Float.Input(
                    "vram", default=8.0, min=0.1, max=1024.0, step=0.5, tooltip="GiB that the drawing may take in all."
                ),
                asked.prompt("What is to be drawn; only its length counts."),
                asked.negative("As in the sampler; only its length counts."),
                asked.guidance("As in the sampler; only 1 counts, which halves the cache."),
                asked.kv_dtype(
                    "As in the sampler, for the policy; the full cache beside it is in the model's precision."
                ),
            ],
            outputs=[io.String.Output(display_name="text"), io.Int.Output(display_name="largest_batch")],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        model: Held,
        images: int,
        vram: float,
        prompt: str,
        negative: str,
        guidance: float,
        policy: Policy | None = None,
        kv_dtype: str = "auto",
        **_: Any,
    ) -> io.NodeOutput:
        drawing: dict[str, Any] = {
            "prompt": prompt,
            "guidance": guidance,
            "negative": negative or None,
            "previews": True,
        }
        ways = [(policy, drawing | {"kv_dtype": kv_dtype}), (Full(), drawing)]
        plans = [plan(model.model, own, images, **drawn) for own, drawn in ways]
        most = [largest_batch(model.model, own, int(vram * 2**30), **drawn) for own, drawn in ways]
        rows = [
            ("", "policy", "full"),
            *((label, *(human(getattr(memory, part)) for memory in plans)) for label, part in parts(*plans).items()),
            ("slots a head", *(slots(memory) for memory in plans)),
            (f"fit into {vram:g} GiB", *map(str, most)),
        ]
        text = "\n".join(f"{label:<27}{own:>24}{full:>14}" for label, own, full in rows)
        return io.NodeOutput(text, most[0], ui=ui.PreviewText(text))
