"""Reading a checkpoint into a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ...errors import OutOfMemoryError, is_out_of_memory
from ..janus import Janus
from ..placement import choose_device, choose_dtype, choose_ops, codec_dtype
from ..small import SMALL, KeptLinear, Kind, Packed, check_weights, shrink
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
    kinds: Callable[[Sequence[torch.dtype]], Kind | None] | None = None,
) -> Janus:
    """Read what drawing needs of a Janus into a model that is ready to draw.

    path: a folder with the official or transformers' files, one file that holds everything (`save_single_file`), or
        'janus-shapes', the small model that comes with this package.
    device: 'auto' is a GPU if there is one.
    dtype: 'bf16', 'fp16', 'fp32' or 'auto', see `choose_dtype`. The picture codec is kept in bfloat16 or float32, see
        `codec_dtype`.
    ops: the namespace of the layer classes, ComfyUI's say; unless given, what is fastest of our own.
    text_on_cpu: keep the prompt's embeddings off the device; they are read once a prompt.
    weights: what the decoder's matrices are kept in: 'auto' is as it computes, 'int8' a byte a number, 'int4' and 'nf4'
        half a byte and a sixteenth. They are rounded one by one as they are read.
    computes_on: where the model is to compute, if that is not where it is kept.
    kinds: other layers for the decoder's matrices than `weights`, which is then a mere name: by what the files hold the
        parts of a matrix in, the kind that is to keep it, None for a plain one.

    Each tensor goes from the file straight into its place. Raises UserError for what is absent, damaged, unknown or of
    another model, before any weight is read, and where the device's memory is too small.
    """
    place = choose_device(device)
    checkpoint = Checkpoint(path)
    on = computes_on or place
    kind = choose_dtype(dtype, on, checkpoint.dtype)
    if kinds is None:
        check_weights(weights, on, kind)
    plan = Plan(checkpoint, ops or choose_ops(place, kind), kind, codec_dtype(kind, on))
    plan.check()
    adopt(plan, kinds or (lambda _: SMALL.get(weights)), on)
    plan.model.weights = weights
    plan.model.text_on_cpu = text_on_cpu
    allocate(plan.model, place)
    fill(plan)
    fill_kept(plan, on)
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


def adopt(plan: Plan, kinds: Callable[[Sequence[torch.dtype]], Kind | None], on: torch.device) -> None:
    """Give an empty model the layers that are to keep its decoder's matrices."""
    shrink(plan.model.decoder, lambda name: kinds(plan.kept_in(f"decoder.{name}.weight")), on.type)


def fill(plan: Plan) -> None:
    """Read the pieces into the model, in the order in which they stand in the files."""
    parameters = plan.model.state_dict()
    matrices = {f"{name}.weight" for name in kept_layers(plan.model)}
    plain = {name: piece for name, piece in plan.pieces.items() if piece.parameter not in matrices}
    for name, tensor in plan.read(name for name in plan.checkpoint.entries if name in plain):
        piece = plain[name]
        values = tensor.unpacked() if isinstance(tensor, Packed) else tensor
        parameters[piece.parameter][piece.start : piece.start + piece.shape[0]].copy_(values)


def fill_kept(plan: Plan, on: torch.device) -> None:
    """Read the matrices that layers keep in a way of their own, one after the other."""
    for module, layer in kept_layers(plan.model).items():
        layer.take((part for _, part in plan.read(plan.parts(f"{module}.weight"))), on)


def kept_layers(model: Janus) -> dict[str, KeptLinear]:
    """A model's layers of that sort, by name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, KeptLinear)}
