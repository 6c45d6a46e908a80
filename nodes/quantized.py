"""ComfyUI's own quantized layers in the decoder: its memory manager moves them piece by piece, like its own models'.

What they multiply is not rounded, as ComfyUI would do on its own: a matrix is converted for each product.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import comfy.ops
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ..ssd_core.errors import UserError
from ..ssd_core.models.small import KeptLinear, Kind, Packed, failure, trial_matrix

FP8 = torch.float8_e4m3fn
# what ComfyUI calls what a file keeps a matrix in
FORMATS = {FP8: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2", torch.int8: "int8_tensorwise"}
FULL = "full"  # everything in the precision, whatever the file has
Kinds = Callable[[Sequence[torch.dtype]], Kind | None]


def possible(device: torch.device, dtype: torch.dtype) -> list[str]:
    """What weights can be kept in by ComfyUI's layers beside 'auto', as far as they work there."""
    found = [FULL] if any(works(kept, device, dtype) for kept in FORMATS) else []
    return [*found, "fp8"] if works(FP8, device, dtype) else found


def kinds(weights: str, device: torch.device, dtype: torch.dtype) -> Kinds | None:
    """Which layers keep the decoder's matrices, by what the file holds their parts in; None where that is not
    ComfyUI's affair. Raises UserError for what does not work there."""
    if weights == FULL:
        return lambda _: None
    if weights == "fp8":
        if why := refusal(FP8, device, dtype):
            raise UserError(f"fp8 weights {why}; take others, or 'auto'.")
        return lambda _: partial(Quantized, rounds=True)
    if weights == "auto":

        def as_in_the_file(parts: Sequence[torch.dtype]) -> Kind | None:
            small = [kept for kept in parts if kept in FORMATS]
            return Quantized if small and all(works(kept, device, dtype) for kept in small) else None

        return as_in_the_file
    return None


def works(kept: torch.dtype, device: torch.device, dtype: torch.dtype) -> bool:
    return refusal(kept, device, dtype) is None


@cache
def refusal(kept: torch.dtype, device: torch.device, dtype: torch.dtype) -> str | None:
    """What is wrong with ComfyUI's layers there for matrices that are kept so; None where they work. One is made and
    used to tell."""
    try:
        return failure(Quantized, rounded(trial_matrix(), kept), device, dtype)
    except ModuleNotFoundError as absent:
        return f"need {absent.name}"


class Quantized(KeptLinear):
    """A matrix as the file has it: each part in 8 bits with the scale that came with it, or plain.

    ComfyUI keeps a matrix with one scale, or in int8 with one a row. So the parts that the decoder's own layers fuse,
    such as queries, keys and values, stay layers of their own here.
    """

    def __init__(self, inputs: int, outputs: int, on: str, dtype: torch.dtype, rounds: bool = False) -> None:
        """rounds: to fp8, what does not come in it."""
        super().__init__(inputs, outputs, on, dtype)
        self.rounds = rounds
        self.parts = nn.ModuleList()

    @torch.no_grad()
    def take(self, parts: Iterable[Tensor | Packed], on: torch.device) -> None:
        """Keep the parts in the processor's memory, wherever they are rounded."""
        for part in parts:
            small = isinstance(part, Packed) and (part.scale.ndim == 0 or part.matrix.dtype == torch.int8)
            if self.rounds and not (small and part.matrix.dtype == FP8):  # type: ignore[union-attr]
                own: Tensor | Packed = rounded(plain(part).to(on), FP8)
            else:
                own = part if small else plain(part)
            self.parts.append(layer_of(own, self.dtype))

    def skeleton(self) -> KeptLinear:
        return Skeleton(self)

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> [rows, outputs]."""
        products = [product(part, x) for part in self.parts]
        return products[0] if len(products) == 1 else torch.cat(products, -1)


class Skeleton(KeptLinear):
    """As many bytes on the meta device, and the same work, without ComfyUI's tensors, which are not counted there."""

    def __init__(self, of: Quantized) -> None:
        super().__init__(of.inputs, of.outputs, of.on, of.dtype)
        weights: list[Any] = [part.weight for part in of.parts]
        self.rows = list(map(len, weights))
        held = sum(weight.nbytes for weight in weights)
        self.weight = nn.Parameter(torch.empty(held, dtype=torch.uint8, device="meta"), requires_grad=False)

    def take(self, parts: Iterable[Tensor | Packed], on: torch.device) -> None:
        raise NotImplementedError("A skeleton keeps nothing.")

    def skeleton(self) -> KeptLinear:
        return self

    def forward(self, x: Tensor) -> Tensor:
        products = [linear(x, x.new_empty(rows, self.inputs)) for rows in self.rows]
        return products[0] if len(products) == 1 else torch.cat(products, -1)


def plain(part: Tensor | Packed) -> Tensor:
    return part.unpacked() if isinstance(part, Packed) else part


def rounded(matrix: Tensor, kept: torch.dtype) -> Packed:
    """A matrix in 8 bits with one scale, on the processor."""
    most = (torch.finfo if kept.is_floating_point else torch.iinfo)(kept).max
    matrix = matrix.float()
    scale = (matrix.abs().amax() / most).clamp_min(torch.finfo(torch.float32).tiny)
    units = matrix / scale
    return Packed((units if kept.is_floating_point else units.round()).to(kept).cpu(), scale.cpu())


def layer_of(part: Tensor | Packed, dtype: torch.dtype) -> nn.Module:
    """ComfyUI's layer with a part of a matrix, loaded as ComfyUI loads one of a file's."""
    if isinstance(part, Packed):
        about = json.dumps({"format": FORMATS[part.matrix.dtype], "full_precision_matrix_mult": True})
        said = torch.tensor(list(about.encode()), dtype=torch.uint8)
        state = {"weight": part.matrix, "weight_scale": part.scale.float(), "comfy_quant": said}
    else:
        state = {"weight": part}
    outputs, inputs = state["weight"].shape
    layer: nn.Module = comfy.ops.mixed_precision_ops(compute_dtype=dtype).Linear(inputs, outputs, bias=False)
    layer.load_state_dict({name: tensor.clone() for name, tensor in state.items()})  # not the file's own pages
    return layer


def product(part: Any, x: Tensor) -> Tensor:
    """x times a part's matrix, which ComfyUI brings to where x is."""
    weight, bias, stream = comfy.ops.cast_bias_weight(part, x, offloadable=True)
    found = linear(x, converted(weight))
    comfy.ops.uncast_bias_weight(part, weight, bias, stream)
    return found


def converted(weight: Tensor) -> Tensor:
    """A matrix in what it is multiplied in."""
    if not isinstance(weight, comfy.ops.QuantizedTensor):
        return weight
    matrix, scale = weight.layout_cls.get_plain_tensors(weight)
    if matrix.dtype != FP8 or matrix.device.type != "cpu":
        unpacked: Tensor = weight.dequantize()
        return unpacked
    # the processor's own conversion takes number after number; shifted, the bits are a float16 of 1/256
    bits = matrix.view(torch.int8).to(torch.int16).bitwise_left_shift_(7).bitwise_and_(~0x4000)
    return bits.view(torch.float16).to(weight.dtype).mul_(scale * 256)
