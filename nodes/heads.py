from __future__ import annotations

from typing import Any

import comfy.model_management as management
from comfy.utils import ProgressBar
from comfy_api.latest import io

from ..ssd_core.errors import UserError
from ..ssd_core.heads import HeadMap, draw, measure
from ..ssd_core.heads.prompts import default_prompts
from ..ssd_core.memory import plan
from ..ssd_core.pictures import from_pil
from ..ssd_core.policies import SSD
from . import folders
from .fields import chosen
from .held import Held
from .links import CATEGORY, HeadMaps, JanusModel


class Heads(io.ComfyNode):
    """Says which heads look far."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SSDJanusHeads",
            display_name="Head Map",
            category=CATEGORY,
            description="How far each attention head looks, measured on pictures or read from a file, for SSD to use.",
            search_aliases=["SSD", "attention heads", "spatial", "semantic"],
            inputs=[
                io.DynamicCombo.Input(
                    "source",
                    options=[io.DynamicCombo.Option(key, widgets()) for key, widgets in SOURCES.items()],
                    tooltip="measure draws pictures with the full cache and looks at the attention; load reads a file.",
                ),
                JanusModel.Input(
                    "model",
                    optional=True,
                    tooltip="What is measured. A map that is loaded is only checked to fit it, where it is connected.",
                ),
                io.Float.Input(
                    "tau",
                    default=SSD.tau,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Heads with a larger share of far attention have a dot in the picture; KV Compression has "
                    "its own.",
                ),
            ],
            outputs=[HeadMaps.Output(display_name="head_map"), io.Image.Output(display_name="image")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, source: dict[str, Any] | None = None, **_: Any) -> str:
        """What the choice of a map stands for on the disk; ComfyUI tells no choice that comes over a link."""
        return folders.fingerprint(folders.maps().get((source or {}).get("map") or ""))

    @classmethod
    def execute(
        cls, tau: float, source: dict[str, Any] | None = None, model: Held | None = None, **_: Any
    ) -> io.NodeOutput:
        source = chosen(source, "source", SOURCES)
        if source["source"] == "load":
            head_map = HeadMap.load(folders.map_of(source["map"]))
            if model is not None:
                head_map.check(model.model.geometry)
        elif model is None:
            raise UserError("To measure heads, connect a model; to read a map without one, choose load.")
        else:
            if source["save_as"]:
                folders.check_name(source["save_as"])
            head_map = cls.measured(model, source["prompts"], source["images"], source["seed"])
            if source["save_as"]:
                folders.keep(head_map, source["save_as"])
        return io.NodeOutput(head_map, from_pil(draw(head_map, tau))[None])

    @classmethod
    def measured(cls, model: Held, prompts: str, images: int, seed: int) -> HeadMap:
        """A map measured on prompts, one a line. The model remembers it, for tau and save_as to change at no cost."""
        texts = [line.strip() for line in prompts.splitlines() if line.strip()] or default_prompts(model.model.name)
        measured_on: tuple[str | int, ...] = (*texts, images, seed)
        if measured_on in model.head_maps:
            return model.head_maps[measured_on]
        memory = plan(model.model, None, images, max(len(model.model.encode(text)) for text in texts))
        bar = ProgressBar(1, node_id=cls.hidden.unique_id)
        head_map = measure(
            model.on_device(memory.peak_bytes - memory.weights_bytes),
            texts,
            images_per_prompt=images,
            seed=seed,
            on_progress=bar.update_absolute,
            check=management.throw_exception_if_processing_interrupted,
        )
        model.head_maps[measured_on] = head_map
        return head_map


def measuring() -> list[io.Input]:
    """The widgets of measuring."""
    return [
        io.String.Input(
            "prompts",
            multiline=True,
            default="",
            tooltip="What is drawn to measure on, one prompt a line; empty is a choice that fits the model.",
        ),
        io.Int.Input("images", default=1, min=1, max=64, tooltip="Pictures of each prompt, drawn at once."),
        io.Int.Input("seed", default=0, min=0, max=2**64 - 1, tooltip="The first picture's; each next has one more."),
        io.String.Input(
            "save_as",
            default="",
            tooltip="A name to keep the map by, in models/janus/heads; a number is added where that holds another map. "
            "Empty keeps no file.",
        ),
    ]


def loading() -> list[io.Input]:
    """The widget of loading."""
    names = folders.maps()
    return [
        io.Combo.Input(
            "map",
            options=list(names),
            default=next(iter(names)),
            tooltip="Maps that come with the pack, and .safetensors files in models/janus/heads.",
        )
    ]


SOURCES = {"measure": measuring, "load": loading}
