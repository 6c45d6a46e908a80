"""Heads that learn to stay near: what they attend to further off than a spatial head's window counts as a loss.

In Janus-Pro-1B 63 of 100 heads hardly look beyond their neighbourhood (arXiv 2510.18716), and a compressed cache lives
on that. Left alone, heads of a model as small as this one look everywhere, or nowhere in particular: some
spread evenly over the whole picture, which tells them nothing and needs every token. So most of them are asked to be
spatial, as large models' heads are by themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaModel
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ssd_core.evaluate.scenes import GRID

from .batches import Batch
from .questions import UNASKED

# Heads of each layer that are to be spatial, 22 of 36: those that a training without this loss used least for what is
# far. Windowed one at a time, they changed what the model says the least.
SPATIAL: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3, 4, 5), (1, 2, 4, 5), (0, 2, 5), (0, 4, 5), (1, 2, 3, 4), (1, 2, 3))
STRIDE = 8  # of the tokens that are told, every so manyth is asked


def outside(decoder: LlamaModel, hidden: tuple[Tensor, ...], positions: Tensor, batch: Batch) -> Tensor:
    """The mean share of the spatial heads' attention to image tokens that goes outside their window, in 0..1.

    hidden: what each layer gets, [B, T, hidden] each, of rows that are prompt, picture, pads. positions: int64 [B, T].
    The window is a row and a token, the newest included: what SSD keeps of the picture for a spatial head.
    """
    cos, sin = decoder.rotary_emb(hidden[0], positions)
    fed = torch.arange(0, batch.before.shape[1], STRIDE, device=positions.device)  # counted from a row's first one
    at = batch.lengths[:, None] + fed
    told = (batch.codes != UNASKED)[:, 1:][:, fed]
    order = torch.arange(positions.shape[1], device=positions.device)
    hidden_from = (order < batch.lengths[:, None])[:, None] | (order > at[:, :, None])  # bool [B, queries, T]
    far = positions.gather(1, at)[:, :, None] - positions[:, None] > GRID

    def rotated(x: Tensor, at: Tensor | None, weight: Tensor, heads: tuple[int, ...]) -> Tensor:
        """Queries or keys of some heads: [B, heads, tokens, D]."""
        dim = cos.shape[-1]
        own = weight.view(-1, dim, weight.shape[-1])[list(heads)].flatten(0, 1)
        x = x if at is None else x.gather(1, at[:, :, None].expand(-1, -1, x.shape[-1]))
        turn = [part if at is None else part.gather(1, at[:, :, None].expand(-1, -1, dim)) for part in (cos, sin)]
        split = (x @ own.T.to(x.dtype)).unflatten(-1, (len(heads), dim)).transpose(1, 2)
        return apply_rotary_pos_emb(split, split, *turn)[0]

    shares = []
    for layer, heads, x in zip(decoder.layers, SPATIAL, hidden, strict=False):
        x = layer.input_layernorm(x)
        queries = rotated(x, at, layer.self_attn.q_proj.weight, heads)
        keys = rotated(x, None, layer.self_attn.k_proj.weight, heads)
        logits = (queries @ keys.mT).float() * layer.self_attn.scaling
        attention = logits.masked_fill(hidden_from[:, None], -torch.inf).softmax(-1)
        shares.append((attention * far[:, None]).sum(-1).transpose(1, 2)[told].flatten())
    return torch.cat(shares).mean()
