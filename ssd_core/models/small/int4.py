"""Four bits a number, in groups with a scale and a zero."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .linear import SmallLinear, kept

GROUP = 64
LEVELS = 16
MIDDLE = LEVELS // 2  # the level at which the zero stands
LEAST = 1e-6  # of a scale; a group of equal numbers has no spread


class Int4(SmallLinear):
    """int4 in groups of 64 numbers of a row, 4.5 bits a number, by torch's own products (tinygemm).

    A group of numbers is spread evenly over 16 levels from its least to its largest. Number = (level - 8) * scale +
    zero, scale and zero in bfloat16, in which the operators compute. CUDA and the processor pack in ways of their own.
    """

    ROWS = 32
    COLUMNS = GROUP

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.computes = torch.bfloat16
        self.tiles = 8 if self.width % 128 == 0 else 4  # of 16 columns, which CUDA packs together
        if self.on == "cpu":
            self.weight = kept(self.height, self.width // 2, dtype=torch.uint8)
        else:
            shape = self.height // 8, self.width // (16 * self.tiles), 32, self.tiles // 2
            self.weight = kept(*shape, dtype=torch.int32)
        self.scales = kept(self.width // GROUP, self.height, 2, dtype=torch.bfloat16)

    def pack(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        groups = matrix.float().unflatten(1, (-1, GROUP))
        low, high = groups.aminmax(dim=-1, keepdim=True)
        scale = ((high - low) / (LEVELS - 1)).clamp_min_(LEAST).bfloat16()
        zero = (low + MIDDLE * scale.float()).bfloat16()
        # by scale and zero as they are kept
        levels = ((groups - zero.float()) / scale.float() + MIDDLE).round_().clamp_(0, LEVELS - 1).flatten(1).int()
        table = torch.cat([scale, zero], -1).transpose(0, 1).contiguous()
        if self.on == "cpu":
            return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1), table
        pairs = (levels[:, ::2] << 4 | levels[:, 1::2]).to(torch.uint8)
        return torch.ops.aten._convert_weight_to_int4pack(pairs, self.tiles), table

    def multiply(self, x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        if x.is_meta:  # not every torch knows what CUDA's product gives there
            return x.new_empty(len(x), self.height)
        aten = torch.ops.aten
        product = aten._weight_int4pack_mm_for_cpu if self.on == "cpu" else aten._weight_int4pack_mm
        return product(x, weight, GROUP, scales)
