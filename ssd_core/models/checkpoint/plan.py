"""What becomes of a checkpoint: the empty model, and where each tensor goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ...errors import UserError
from ..codec import build_codec
from ..janus import Janus
from ..tokenizer import JanusTokenizer
from .files import Checkpoint
from .names import Piece, Tensors, absent, misshapen
from .sizes import check_family, janus_shape


def empty_model(
    checkpoint: Checkpoint,
    tensors: Tensors,
    ops: Any = nn,
    dtype: torch.dtype = torch.float32,
    codec_dtype: torch.dtype = torch.float32,
) -> Janus:
    """A checkpoint's model without its weights, on the meta device."""
    source = checkpoint.config_text[1]
    check_family(checkpoint.config, source)
    shape = janus_shape(checkpoint.config, tensors, source)
    try:
        codec = build_codec(shape.vq).to(codec_dtype)
    except ValueError as error:
        raise UserError(
            f"{checkpoint.path} holds a picture codec whose tensors do not fit together ({error}); download it again."
        ) from error
    tokenizer = JanusTokenizer(*checkpoint.tokenizer_text)
    if tokenizer.size > shape.vocabulary:
        raise UserError(
            f"{checkpoint.tokenizer_text[1]} has {tokenizer.size} ids, but the model embeds {shape.vocabulary}; "
            "take the tokenizer that came with the weights."
        )
    return Janus(checkpoint.name, shape, tokenizer, codec, ops, device="meta", dtype=dtype)


def problems(checkpoint: Checkpoint, tensors: Tensors, wanted: list[Piece]) -> Iterator[UserError]:
    """All that keeps these pieces from being read, and every tensor that a Janus does not have."""
    expected = {tensors.naming.on_disk(piece.name): piece for piece in wanted}
    for name, piece in expected.items():
        entry = checkpoint.entries.get(name)
        if entry is None:
            yield absent(checkpoint, name, piece.shape)
        elif entry.shape != piece.shape:
            yield misshapen(entry, name, str(list(piece.shape)))
        elif not entry.dtype.is_floating_point:
            yield UserError(
                f"{entry.file} holds the tensor {name} as {entry.dtype}, where floating point is expected; "
                "take the weights before they were quantized."
            )
    for name, entry in checkpoint.entries.items():
        if name not in expected and not tensors.unneeded(name):
            yield UserError(
                f"{entry.file} holds the tensor {name}, which is not one of a Janus of the sizes in its config.json; "
                "its weights are another model's."
            )
