"""Reading a checkpoint into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...errors import OutOfMemoryError, is_out_of_memory
from ..janus import Janus
from ..placement import choose_device, choose_dtype, choose_ops, codec_dtype
from ..small import SmallLinear, check_weights
from .files import Checkpoint
from .plan import Plan


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    ops: Any = None,
    text_on_cpu: bool = True,
    weights: str = "auto",
    computes_on: torch.device | None = None,
) -> Janus:
    """Read what drawing needs of a Janus into a model that is ready to draw.

    path: a folder with the official or transformers' files, one file that holds everything (`save_single_file`), or
        'janus-shapes', the small model that comes with this package.
    device: 'auto' is a GPU if there is one.
    dtype: 'bf16', 'fp16', 'fp32' or 'auto': bfloat16 on a GPU that computes in it, float32 on the processor. The
        picture codec is kept in bfloat16 or float32, see `codec_dtype`.
    ops: the namespace of the layer classes, ComfyUI's say; unless given, what is fastest of our own.
    text_on_cpu: keep the prompt's embeddings off the device; they are read once a prompt.
    weights: what the decoder's matrices are kept in: 'auto' is as it computes, 'int8' a byte a number, 'int4' and 'nf4'
        half a byte and a sixteenth. They are rounded one by one as they are read.
    computes_on: where the model is to compute, if that is not where it is kept.

    Each tensor goes from the file straight into its place. Raises UserError for what is absent, damaged, unknown or of
    another model, before any weight is read, and where the device's memory is too small.
    """
    place = choose_device(device)
    kind = choose_dtype(dtype, place)
    on = computes_on or place
    check_weights(weights, on, kind)
    plan = Plan(Checkpoint(path), ops or choose_ops(place, kind), kind, codec_dtype(kind, place))
    plan.check()
    if weights != "auto":
        plan.model.shrink(weights, on.type)
    plan.model.text_on_cpu = text_on_cpu
    allocate(plan.model, place)
    fill(plan)
    if weights != "auto":
        fill_small(plan, on)
    return plan.model.eval().requires_grad_(False)


def allocate(model: Janus, device: torch.device) -> None:
    """Give an empty model its memory, uninitialised."""
    try:
        for name, part in model.named_children():
            part.to_empty(device="cpu" if model.text_on_cpu and name == "text" else device)
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
    parameters = plan.model.state_dict()
    matrices = {f"{name}.weight" for name in small_layers(plan.model)}
    plain = {name: piece for name, piece in plan.pieces.items() if piece.parameter not in matrices}
    for name, tensor in plan.read(name for name in plan.checkpoint.entries if name in plain):
        piece = plain[name]
        parameters[piece.parameter][piece.start : piece.start + piece.shape[0]].copy_(tensor)


def fill_small(plan: Plan, on: torch.device) -> None:
    """Read the matrices of small layers, one after the other, and let the layers keep them; rounded on `on`."""
    names: dict[str, list[str]] = {}
    for name, piece in plan.pieces.items():
        names.setdefault(piece.parameter, []).append(name)
    for module, layer in small_layers(plan.model).items():
        matrix = torch.empty(layer.outputs, layer.inputs, dtype=plan.model.dtype, device=on)
        for name, tensor in plan.read(names[f"{module}.weight"]):
            piece = plan.pieces[name]
            matrix[piece.start : piece.start + piece.shape[0]].copy_(tensor)
        layer.keep(matrix)


def small_layers(model: Janus) -> dict[str, SmallLinear]:
    """A model's small layers by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, SmallLinear)}
