"""Reading a checkpoint into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import OutOfMemoryError, is_out_of_memory
from ..janus import Janus
from ..placement import choose_device, choose_dtype, choose_ops, codec_dtype
from .files import Checkpoint
from .plan import Plan


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    ops: Any = None,
    text_on_cpu: bool = True,
) -> Janus:
    """Read what drawing needs of a Janus into a model that is ready to draw.

    path: a folder with the official or transformers' files, one file that holds everything (`save_single_file`), or
        'janus-shapes', the small model that comes with this package.
    device: 'auto' is a GPU if there is one.
    dtype: 'bf16', 'fp16', 'fp32' or 'auto': bfloat16 on a GPU that computes in it, float32 on the processor. The
        picture codec is kept in bfloat16 or float32, see `codec_dtype`.
    ops: the namespace of the layer classes, ComfyUI's say; unless given, what is fastest of our own.
    text_on_cpu: keep the prompt's embeddings off the device; they are read once a prompt.

    Each tensor goes from the file straight into its place. Raises UserError for what is absent, damaged, unknown or of
    another model, before any weight is read, and where the device's memory is too small.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    plan = Plan(Checkpoint(path), ops or choose_ops(place, kind), kind, codec_dtype(kind, place))
    plan.check()
    allocate(plan.model, place, text_on_cpu)
    fill(plan)
    return plan.model.eval().requires_grad_(False)


def allocate(model: Janus, device: torch.device, text_on_cpu: bool) -> None:
    """Give an empty model its memory, uninitialised."""
    try:
        for name, part in model.named_children():
            part.to_empty(device="cpu" if text_on_cpu and name == "text" else device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        size = sum(tensor.nbytes for tensor in model.state_dict().values()) / 2**30
        raise OutOfMemoryError(
            f"{model.name} takes {size:.1f} GiB for its weights, more than {device} has free; close what else uses it, "
            "take a smaller model or device='cpu'."
        ) from error


def fill(plan: Plan) -> None:
    """Read the pieces into the model, in the order in which they stand in the files."""
    parameters, checkpoint = plan.model.state_dict(), plan.checkpoint
    for name, tensor in checkpoint.read(name for name in checkpoint.entries if name in plan.pieces):
        piece = plan.pieces[name]
        parameters[piece.parameter][piece.start : piece.start + piece.shape[0]].copy_(tensor)
