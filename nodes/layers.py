"""ComfyUI's layers as the engine takes them: weights that ComfyUI keeps elsewhere, or brings piece by piece, are cast
to where and in what their input is. An `ops` namespace.
"""

from __future__ import annotations

from comfy.ops import manual_cast
from torch import nn

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


def adopt(model: nn.Module) -> None:
    """Make torch's own layers in a model that is built already, the picture codec of transformers say, ComfyUI's.

    Without it, where ComfyUI has loaded half a model, a picture would have to pass from device to device.
    """
    for layer in model.modules():
        for kind in (nn.Conv2d, nn.GroupNorm, nn.Embedding):
            if type(layer) is kind:
                layer.__class__ = getattr(manual_cast, kind.__name__)
                layer.bias = getattr(layer, "bias", None)  # what ComfyUI's Embedding has as well
