"""A matrix as a file keeps it in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Packed:
    """A matrix in 8 bits, [rows, columns], and its scale: one for all [], or one a row [rows, 1]."""

    matrix: Tensor
    scale: Tensor

    def unpacked(self) -> Tensor:
        """The matrix in float32."""
        return self.matrix.float() * self.scale.float()
