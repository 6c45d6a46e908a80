"""Image tokens as tables int64 [pictures, grid tokens], in raster order."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import UserError
from .models.base import Geometry

UNDRAWN = -1  # a token of a picture that was stopped before it came


def check_tokens(geometry: Geometry, tokens: Tensor) -> None:
    """Raise UserError for what are not the tokens of pictures; some may be undrawn."""
    if tokens.ndim != 2 or tokens.shape[0] < 1 or tokens.shape[1] != geometry.tokens:
        raise UserError(f"The tokens of pictures are a table [pictures, {geometry.tokens}], not {list(tokens.shape)}.")
    if tokens.dtype != torch.int64:
        raise UserError(f"The tokens of pictures are whole numbers, int64, not {tokens.dtype}.")
    if tokens.min() < UNDRAWN or tokens.max() >= geometry.codebook:
        raise UserError(
            f"Image tokens lie in 0..{geometry.codebook - 1}, not in {int(tokens.min())}..{int(tokens.max())}; "
            "these are another model's."
        )
