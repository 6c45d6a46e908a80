"""What the small precisions have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class SmallLinear(nn.Module, ABC):
    """A linear layer without bias whose matrix is kept in fewer bits than it multiplies in.

    The matrix has zeros added up to whole blocks: `height` rows, a multiple of `ROWS`, of `width` numbers, a multiple
    of `COLUMNS`. A class registers what it keeps of it as parameters, so that whoever moves or counts a model's weights
    moves and counts these.
    """

    LIBRARY: ClassVar[str | None] = None  # what pip has to install beside torch
    ROWS: ClassVar[int] = 1
    COLUMNS: ClassVar[int] = 1

    def __init__(self, inputs: int, outputs: int, on: str, dtype: torch.dtype) -> None:
        """A layer on the meta device.

        on: the type of the device that is to compute, such as 'cuda', which decides how the matrix is packed.
        dtype: of the model, in which inputs come and outputs go.
        """
        super().__init__()
        self.inputs, self.outputs, self.on = inputs, outputs, on
        self.height, self.width = rounded_up(outputs, self.ROWS), rounded_up(inputs, self.COLUMNS)
        # the processor has products with small matrices in bfloat16 alone; its float32 ones are slower than none
        self.computes = torch.bfloat16 if on == "cpu" else dtype

    @abstractmethod
    def pack(self, matrix: Tensor) -> tuple[Tensor, ...]:
        """A matrix [height, width] on the device that computes -> what is kept of it, in the parameters' order."""

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """x [rows, width], in what the layer computes in -> [rows, height]."""

    @torch.no_grad()
    def keep(self, matrix: Tensor) -> None:
        """Round a matrix [outputs, inputs], on the device that is to compute, and keep it wherever the layer is."""
        padded = pad(matrix, (0, self.width - self.inputs, 0, self.height - self.outputs))
        for kept, packed in zip(self.parameters(), self.pack(padded), strict=True):
            kept.copy_(packed.view_as(kept))

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> [rows, outputs]."""
        given = x.to(self.computes).contiguous()
        if self.width > self.inputs:
            given = pad(given, (0, self.width - self.inputs))
        return self.multiply(given)[:, : self.outputs].to(x.dtype)


def kept(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter without content."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)


def rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
