"""Four bits a number, on levels that suit normally distributed numbers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from .linear import SmallLinear, kept

BLOCK = 64
FEW = 4  # rows up to which bitsandbytes multiplies with the packed matrix on any GPU


class NF4(SmallLinear):
    """NormalFloat (QLoRA, arXiv 2305.14314) in blocks of 64 numbers, each with its largest, by bitsandbytes.

    4.5 bits a number; 4.25 on processors that compute in bfloat16, where bitsandbytes packs in a way of its own and
    multiplies with the packed matrix. On other processors it converts the matrix for each product. On a GPU it decides
    by the number of rows.
    """

    LIBRARY = "bitsandbytes"
    ROWS = 32
    COLUMNS = BLOCK

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        blocks = self.width // BLOCK
        self.packed = self.on == "cpu" and library().functional.has_avx512bf16()
        self.weight = kept(self.height, self.width // 2, dtype=torch.uint8)
        if self.packed:
            self.levels = levels()  # here, for torch.compile does not look into bitsandbytes
            self.scales = kept(blocks, self.height, dtype=torch.bfloat16)
        else:
            self.scales = kept(self.height * blocks, dtype=torch.float32)

    def pack(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        bnb = library()
        how: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
        layer = bnb.nn.Linear4bit(self.width, self.height, bias=False, device="meta", **how)
        layer.weight = bnb.nn.Params4bit(matrix.to(self.computes), requires_grad=False, module=layer, **how)
        layer.to(matrix.device).eval()
        layer(torch.zeros(1, self.width, dtype=self.computes, device=matrix.device))  # its way of packing comes by use
        return layer.weight.data, layer.weight.quant_state.absmax

    def multiply(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if x.is_meta:  # a plan needs no library; with more than a few rows it expects that the matrix is converted
            if self.packed or len(x) <= FEW:
                return x.new_empty(len(x), self.height)
            return linear(x, x.new_empty(self.height, self.width))
        shape = [self.height, self.width]
        bnb = torch.ops.bitsandbytes
        if self.packed:
            return bnb.gemv_4bit(x, weight, shape, scales, self.levels, BLOCK)
        return bnb.gemm_4bit(x, weight.view(-1, 1), shape, scales, BLOCK, "nf4")


@cache
def levels() -> Tensor:
    """The 16 levels, in -1..1."""
    found: Tensor = library().functional.get_4bit_type("nf4", device="cpu")
    return found


@cache
def library() -> Any:
    """bitsandbytes; raises ImportError where it is not installed."""
    with offline():
        import bitsandbytes
    return bitsandbytes


@contextmanager
def offline() -> Iterator[None]:
    """Keep bitsandbytes from fetching a product for the processor from the Hub, and from saying that it could not; it
    has one itself. It tries while it is imported, where the package `kernels` is installed."""
    known = sys.modules.get("kernels")
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # what is None there counts as not installed
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        del sys.modules["kernels"]
        if known is not None:
            sys.modules["kernels"] = known
