"""A start for the picture codec at which its group norms keep colours.

A GroupNorm divides by the deviation over the whole picture, so a colour would come out differently in a picture full of
objects than in an empty one, and training is long busy undoing that. The VQ model's groups hold two channels each. A
large constant added to one and taken from the other makes the group's statistics nearly the same for every picture: the
norm starts as a fixed scale, and learns to depend on the picture only where that helps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE, JanusVQVAEResnetBlock

OFFSET = 2.0  # of the constant, in deviations of the norm's input


def sources(vqmodel: JanusVQVAE) -> dict[nn.GroupNorm, nn.Conv2d]:
    """The convolution whose bias can carry a norm's constant; the norms not named get theirs through the residuals."""
    encoder: Any = vqmodel.encoder
    decoder: Any = vqmodel.decoder
    found: dict[nn.GroupNorm, nn.Conv2d] = {}
    found |= {module.norm2: module.conv1 for module in vqmodel.modules() if isinstance(module, JanusVQVAEResnetBlock)}
    found[encoder.mid.block_1.norm1] = encoder.down[-2].downsample.conv
    found[decoder.mid.block_1.norm1] = decoder.conv_in
    for below, level in zip(decoder.up[:-1], decoder.up[1:], strict=True):
        found[level.block[0].norm1] = below.upsample.conv
    return found


@torch.no_grad()
def steady(vqmodel: JanusVQVAE, use: Callable[[], object]) -> None:
    """Set biases and norms in place. `use` runs decoder and encoder on some typical pictures, once; for these every
    norm's output then has mean 0 in each channel and deviation 1 over all, with statistics ruled by the constants."""
    source = sources(vqmodel)

    def set_norm(norm: nn.GroupNorm, inputs: tuple[torch.Tensor]) -> None:
        (x,) = inputs
        deviation = x.std((0, 2, 3)).mean()
        if norm in source:
            constant = OFFSET * deviation * torch.ones_like(norm.bias)
            constant[1::2] *= -1
            source[norm].get_parameter("bias").add_(constant)
            x += constant[:, None, None]  # the residual branch holds this same tensor
        grouped = x.unflatten(1, (norm.num_groups, -1))
        centre = x.mean((0, 2, 3)) - grouped.mean((0, 2, 3, 4)).repeat_interleave(grouped.shape[2])
        scale = grouped.std((2, 3, 4)).mean(0).repeat_interleave(grouped.shape[2])
        norm.weight.copy_(scale / deviation)
        norm.bias.copy_(-centre / deviation)

    norms = [module for module in vqmodel.modules() if isinstance(module, nn.GroupNorm)]
    hooks = [norm.register_forward_pre_hook(set_norm) for norm in norms]
    use()
    for hook in hooks:
        hook.remove()
