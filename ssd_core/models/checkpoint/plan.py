"""What becomes of a checkpoint: the empty model, and where each tensor goes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UserError
from ..codec import build_codec
from ..janus import Janus
from ..small import Packed
from ..tokenizer import JanusTokenizer
from .files import Checkpoint
from .names import pieces
from .scaled import Scaled
from .sizes import check_family, janus_shape
from .tensors import Tensors, absent, misshapen


class Plan:
    """A checkpoint's model on the meta device, and the pieces to fill it with, by the checkpoint's own names."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        ops: Any = nn,
        dtype: torch.dtype = torch.float32,
        codec_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Raises UserError where the checkpoint's model cannot be told."""
        source = checkpoint.config_text[1]
        check_family(checkpoint.config, source)
        self.checkpoint, self.tensors = checkpoint, Tensors(checkpoint)
        shape = janus_shape(checkpoint.config, self.tensors, source)
        try:
            codec = build_codec(shape.vq).to(codec_dtype)
        except ValueError as error:
            raise UserError(
                f"{checkpoint.path} holds a picture codec whose tensors do not fit together ({error}); "
                "it is damaged, so download it again."
            ) from error
        tokenizer = JanusTokenizer(*checkpoint.tokenizer_text)
        if tokenizer.size > shape.vocabulary:
            raise UserError(
                f"{checkpoint.tokenizer_text[1]} has {tokenizer.size} ids, but the model embeds {shape.vocabulary}; "
                "take the tokenizer that came with the weights."
            )
        self.model = Janus(checkpoint.name, shape, tokenizer, codec, ops, device="meta", dtype=dtype)
        wanted = pieces(self.model.state_dict(), shape.decoder)
        self.pieces = {self.tensors.naming.on_disk(piece.name): piece for piece in wanted}
        self.scaled = Scaled(checkpoint)

    def check(self) -> None:
        """Raise the first problem."""
        for problem in self.problems():
            raise problem

    def problems(self) -> Iterator[UserError]:
        """All that keeps the pieces from being read, and every tensor that is neither one nor known to be unneeded."""
        entries = self.checkpoint.entries
        yield from self.scaled.problems()
        for name, piece in self.pieces.items():
            entry = entries.get(name)
            if entry is None:
                yield absent(self.checkpoint, name, piece.shape)
            elif entry.shape != piece.shape:
                yield misshapen(entry, name, str(list(piece.shape)))
            elif not entry.dtype.is_floating_point and name not in self.scaled.scales:
                yield UserError(
                    f"{entry.file} holds the tensor {name} as {entry.dtype}, where floating point is expected; "
                    "take the weights before they were quantized."
                )
        for name, entry in entries.items():
            if not (name in self.pieces or self.tensors.naming.is_unneeded(name) or self.scaled.is_beside(name)):
                yield UserError(
                    f"{entry.file} holds the tensor {name}, which a Janus of its config.json's sizes does not have; "
                    "its weights are another model's."
                )

    def parts(self, parameter: str) -> list[str]:
        """The checkpoint's names of what fills one of the model's parameters, from its first row to its last."""
        return [name for name, piece in self.pieces.items() if piece.parameter == parameter]

    def kept_in(self, parameter: str) -> list[torch.dtype]:
        """What the checkpoint holds these parts in."""
        return [self.checkpoint.entries[name].dtype for name in self.parts(parameter)]

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor | Packed]]:
        """The tensors of these names, one after the other, as the checkpoint keeps them."""
        for name, tensor in self.checkpoint.read(names):
            yield name, self.scaled.packed(name, tensor)
