"""A Janus in the hands of ComfyUI's memory manager."""

from __future__ import annotations

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..ssd_core.heads.headmap import HeadMap
from ..ssd_core.models.janus import Janus
from ..ssd_core.models.placement import choose_dtype
from . import layers, quantized


class Held:
    """A model whose weights ComfyUI moves: to the device when it draws, away when others need the room."""

    def __init__(self, path: str, precision: str, weights: str = "auto") -> None:
        """Read the model at `path` to where ComfyUI keeps idle weights. Raises UserError as `ssd_core.load` does."""
        from ..ssd_core.models.checkpoint import load  # imports transformers, which takes seconds
        from ..ssd_core.models.checkpoint.files import Checkpoint

        self.head_maps: dict[tuple[str | int, ...], HeadMap] = {}  # measured on it, by what they were measured on
        self.device = management.get_torch_device()
        offload = management.unet_offload_device()
        dtype = choose_dtype(precision, self.device, Checkpoint(path).dtype)
        on_processor = self.device.type == "cpu"  # where the engine's own layers are faster, and nothing is moved
        self.model: Janus = load(
            path,
            offload,
            dtype,
            None if on_processor else layers,
            weights=weights,
            computes_on=self.device,
            kinds=quantized.kinds(weights, self.device, dtype),
        )
        if not on_processor:
            layers.adopt(self.model)
        self.model.computes_on = self.device
        parts = nn.Module()  # ComfyUI writes its own attributes onto what it moves
        for name, part in self.model.named_children():
            if name != "text":  # the prompt's embeddings stay on the processor, where they are read once a prompt
                parts.add_module(name, part.to(offload))
        # Not DynamicVRAM's patcher, which is the core's choice: it brings each matrix anew for each token, and no graph
        # can hold a step then. This one leaves all weights on the device where they fit, and else as many as fit.
        self.patcher = ModelPatcher(parts, load_device=self.device, offload_device=offload)

    def on_device(self, needed: int) -> Janus:
        """The model, ready to draw, with `needed` bytes beside it free as far as others can make room."""
        management.load_models_gpu([self.patcher], memory_required=needed)
        return self.model


def free_bytes(device: torch.device) -> int | None:
    """What the device has left; None for the processor, whose memory everything else shares."""
    return None if device.type == "cpu" else int(management.get_free_memory(device))
