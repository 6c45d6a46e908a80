"""As much of comfy.ops as quantized layers touch: matrices with scales, loaded by a state, brought to their input."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

LAYOUTS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2, "int8_tensorwise": torch.int8}


class Layout:
    @staticmethod
    def get_plain_tensors(of: QuantizedTensor) -> tuple[Tensor, Tensor]:
        return of.matrix, of.scale


class QuantizedTensor:
    """The real one is a tensor that says it is of `dtype`."""

    layout_cls = Layout

    def __init__(self, matrix: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        self.matrix, self.scale, self.dtype = matrix, scale, dtype
        self.nbytes = matrix.nbytes

    def __len__(self) -> int:
        return len(self.matrix)

    def dequantize(self) -> Tensor:
        return self.matrix.to(self.dtype) * self.scale.to(self.dtype)


class CastWeightBiasOp:
    comfy_cast_weights = False


def cast_bias_weight(
    of: Any,
    input: Tensor | None = None,  # noqa: A002  ComfyUI's name
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    offloadable: bool = False,
) -> tuple[Any, None, None]:
    assert offloadable, "ComfyUI could not bring the next layer meanwhile"
    given = of.weight
    of.lent = getattr(of, "lent", 0) + 1
    if isinstance(given, QuantizedTensor):
        assert input is not None
        assert given.dtype == input.dtype, "it would be unpacked twice"
        return given, None, None
    return given.to(device if input is None else input.device, dtype if input is None else input.dtype), None, None


def uncast_bias_weight(of: Any, weight: Any, bias: None, stream: None) -> None:
    of.lent -= 1


def mixed_precision_ops(compute_dtype: torch.dtype) -> type:
    class Linear(nn.Module):
        def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
            assert not bias
            super().__init__()
            self.shape = (outputs, inputs)

        def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
            state, matrix = state_dict, state_dict["weight"]
            assert matrix.shape == self.shape
            if "comfy_quant" not in state:
                self.weight: Any = nn.Parameter(matrix.to(compute_dtype), requires_grad=False)
                return
            about = json.loads(bytes(state["comfy_quant"].tolist()))
            assert about["full_precision_matrix_mult"]
            assert matrix.dtype == LAYOUTS[about["format"]]
            scale = state["weight_scale"]
            assert scale.dtype == torch.float32
            assert scale.shape == () or (matrix.dtype == torch.int8 and scale.shape == (len(matrix), 1))
            self.register_buffer("matrix", matrix)  # which the real one counts and moves as its weight
            self.weight = QuantizedTensor(matrix, scale, compute_dtype)

    return type("Ops", (), {"Linear": Linear})


def module() -> ModuleType:
    """comfy.ops."""
    made = ModuleType("comfy.ops")
    parts = QuantizedTensor, CastWeightBiasOp, cast_bias_weight, uncast_bias_weight, mixed_precision_ops
    vars(made).update({part.__name__: part for part in parts}, manual_cast=nn)
    return made
