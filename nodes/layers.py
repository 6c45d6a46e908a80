"""ComfyUI's layers as the engine takes them: weights that ComfyUI keeps elsewhere, or brings piece by piece, are cast
to where and in what their input is. An `ops` namespace.
"""

from __future__ import annotations

from functools import cache

from comfy.ops import CastWeightBiasOp, cast_bias_weight, manual_cast, uncast_bias_weight
from torch import Tensor, nn

from ..ssd_core.models.small import SmallLinear

RMSNorm = manual_cast.RMSNorm


class Linear(manual_cast.Linear):
    """A linear layer that has its weights from the beginning.

    Under DynamicVRAM ComfyUI's own has none until `load_state_dict`, which the engine does not use: it reads each
    tensor into its place. A loader that is not ComfyUI's keeps ComfyUI from that, in 0.19 as in 0.33.
    """

    _load_from_state_dict = nn.Module._load_from_state_dict


class Embedding(manual_cast.Embedding):
    """An embedding of the same kind."""

    _load_from_state_dict = nn.Module._load_from_state_dict


class MovedLinear(CastWeightBiasOp, SmallLinear):
    """A layer of the engine's own small ones that computes wherever its input is."""

    bias = None  # ComfyUI asks

    def forward(self, x: Tensor) -> Tensor:
        """x [rows, inputs] -> [rows, outputs]."""
        weight, _, stream = cast_bias_weight(self, dtype=self.weight.dtype, device=x.device, offloadable=True)
        product = self.product(x, weight, self.scales.to(x.device))
        uncast_bias_weight(self, weight, None, stream)
        return product


@cache
def moved(kind: type[SmallLinear]) -> type[SmallLinear]:
    """The same kind of layer, which ComfyUI may keep elsewhere."""
    return type(f"Moved{kind.__name__}", (MovedLinear, kind), {})


def adopt(model: nn.Module) -> None:
    """Make layers that are built already, the picture codec's of transformers and the engine's small ones, ComfyUI's.

    Without it, where ComfyUI has loaded half a model, a picture would have to pass from device to device.
    """
    for layer in model.modules():
        for kind in (nn.Conv2d, nn.GroupNorm, nn.Embedding):
            if type(layer) is kind:
                layer.__class__ = getattr(manual_cast, kind.__name__)
                layer.bias = getattr(layer, "bias", None)  # what ComfyUI's Embedding has as well
        if isinstance(layer, SmallLinear):
            layer.__class__ = moved(type(layer))
