"""A byte a number, and a scale a row."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .linear import SmallLinear, kept

MOST = 127
FEW = 16  # rows up to which the processor's product with bytes beats converting the matrix first


class Int8(SmallLinear):
    """int8 with a scale for each row of the matrix, symmetric, by torch's own operators.

    A few rows on the processor are multiplied with the bytes as they are. Everywhere else the matrix is converted for
    each product: on a GPU this saves memory and no time.
    """

    COLUMNS = 32  # torch's product reads whole registers, also beyond the end of a row

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.weight = kept(self.height, self.width, dtype=torch.int8)
        self.scales = kept(self.height, dtype=self.computes)

    def pack(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        matrix = matrix.float()
        least = torch.finfo(self.computes).tiny
        scale = (matrix.abs().amax(1) / MOST).clamp_min(least).to(self.computes)
        rounded = (matrix / scale.float()[:, None]).round_().clamp_(-MOST, MOST)  # of the scale as it is kept
        return rounded.to(torch.int8), scale

    def multiply(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if self.on == "cpu" and len(x) <= FEW:
            return torch._weight_int8pack_mm(x, weight, scales)
        return linear(x, weight * scales[:, None])
