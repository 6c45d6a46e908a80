"""Layers for the processor, where a step multiplies a few rows with each matrix. An `ops` namespace."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Embedding

__all__ = ["Embedding", "Linear", "RMSNorm", "add_linear"]

FEW = 16
WIDE = 16  # float32 in the widest registers: of so many columns, or of a few times as many, MKL leaves none idle
MOST = 64


class Linear(nn.Linear):
    """A linear layer that takes few rows as columns.

    MKL reads the matrix once for a handful of columns, but packs it first for a handful of rows. On an AMD EPYC (Zen 4)
    two rows take half to a quarter of the time this way. What comes out stands in columns, too. Turning it back is
    worth its time only where the next product would stumble over it, which it does not at a multiple of 16 rows; 16 to
    64 rows then take three quarters of the time. In bfloat16, for which torch takes oneDNN, only such multiples gain.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] -> [..., outputs], of any strides."""
        if not as_columns(x):
            return super().forward(x)
        if self.bias is None:
            columns = torch.mm(self.weight, x.t())
        else:
            columns = torch.addmm(self.bias[:, None], self.weight, x.t())
        return columns.t() if len(x) % WIDE == 0 else columns.t().contiguous()


def as_columns(x: Tensor) -> bool:
    """Whether rows are to be taken as columns."""
    if x.ndim != 2:
        return False
    if len(x) % WIDE == 0:
        return len(x) <= MOST
    return len(x) <= FEW and x.dtype == torch.float32


def add_linear(linear: Linear, x: Tensor, to: Tensor) -> Tensor:
    """`to` + linear(x), for a layer without bias, in one pass where rows are taken as columns."""
    if not as_columns(x):
        return to + linear(x)
    columns = torch.addmm(to.t(), linear.weight, x.t())
    return columns.t() if len(x) % WIDE == 0 else columns.t().contiguous()


class RMSNorm(nn.RMSNorm):
    """x * weight / sqrt(mean(x^2) + eps) in half as many passes: over n inputs that root is hypot(|x|, sqrt(n * eps)) /
    sqrt(n). In float32 alone, for a root of fewer bits would be wrong for all inputs at once."""

    def __init__(self, size: int, eps: float, **where: Any) -> None:
        super().__init__(size, eps, **where)
        self.least = torch.tensor(math.sqrt(size * eps))
        self.zero = torch.zeros(())
        self.scale = math.sqrt(size)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., size] -> the same shape."""
        if x.dtype != torch.float32:
            return super().forward(x)
        root = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self.least)
        return torch.addcdiv(self.zero, x * self.weight, root, value=self.scale)
