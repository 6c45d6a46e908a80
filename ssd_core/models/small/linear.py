"""What layers with matrices in fewer bits have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...rounding import rounded_up
from .packed import Packed


class KeptLinear(nn.Module, ABC):
    """A linear layer without bias that keeps its matrix in fewer bits than it multiplies in, in a way of its own.

    It is made without content, and then takes the matrix. A class registers what it keeps of it as parameters, so that
    whoever moves or counts a model's weights moves and counts these.
    """

    LIBRARY: ClassVar[str | None] = None  # what pip has to install beside torch

    def __init__(self, inputs: int, outputs: int, on: str, dtype: torch.dtype) -> None:
        """on: the type of the device that is to compute, such as 'cuda'.
        dtype: of the model, in which inputs come and outputs go.
        """
        super().__init__()
        self.inputs, self.outputs, self.on, self.dtype = inputs, outputs, on, dtype

    @abstractmethod
    def take(self, parts: Iterable[Tensor | Packed], on: torch.device) -> None:
        """Keep a matrix [outputs, inputs], of which each part holds the next rows; what is to be rounded is rounded
        on the device `on`."""

    @abstractmethod
    def skeleton(self) -> KeptLinear:
        """The same layer on the meta device, for planning."""


class SmallLinear(KeptLinear):
    """A layer that rounds its matrix to small numbers, with a few more that say what these stand for.

    The matrix has zeros added up to whole blocks: `height` rows, a multiple of `ROWS`, of `width` numbers, a multiple
    of `COLUMNS`. `weight` and `scales` hold what is kept of it.
    """

    weight: nn.Parameter
    scales: nn.Parameter
    ROWS: ClassVar[int] = 1
    COLUMNS: ClassVar[int] = 1

    def __init__(self, inputs: int, outputs: int, on: str, dtype: torch.dtype) -> None:
        """A layer on the meta device; `on` decides how the matrix is packed."""
        super().__init__(inputs, outputs, on, dtype)
        self.height, self.width = rounded_up(outputs, self.ROWS), rounded_up(inputs, self.COLUMNS)
        # the processor has products with small matrices in bfloat16 alone; its float32 ones are slower than none
        self.computes = torch.bfloat16 if on == "cpu" else dtype

    @abstractmethod
    def pack(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """A matrix [height, width] on the device that computes -> weight and scales, in any shape."""

    @abstractmethod
    def multiply(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """x [rows, width], in what the layer computes in -> [rows, height]. weight, scales: the layer's own, where x
        is."""

    @torch.no_grad()
    def take(self, parts: Iterable[Tensor | Packed], on: torch.device) -> None:
        matrix, row = torch.zeros(self.height, self.width, dtype=self.dtype, device=on), 0
        for part in parts:
            plain = part.unpacked() if isinstance(part, Packed) else part
            matrix[row : row + len(plain), : self.inputs].copy_(plain)
            row += len(plain)
        for kept, packed in zip((self.weight, self.scales), self.pack(matrix), strict=True):
            kept.copy_(packed.view_as(kept))

    def skeleton(self) -> SmallLinear:
        return type(self)(self.inputs, self.outputs, self.on, self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> [rows, outputs]."""
        return self.product(x, self.weight, self.scales)

    def product(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        """x [rows, inputs] -> [rows, outputs]. weight, scales: the layer's own, where x is."""
        given = x.to(self.computes).contiguous()
        if self.width > self.inputs:
            given = pad(given, (0, self.width - self.inputs))
        return self.multiply(given, weight, scales)[:, : self.outputs].to(x.dtype)


def kept(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter without content."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
