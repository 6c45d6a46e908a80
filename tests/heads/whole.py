"""Attention the plain way: whole matrices, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from ssd_core.models.base import ImageModel
from ssd_core.models.decoder import split_heads


class WholeMatrix:
    """Attention of one picture as one matrix a head, prompt included: float64 [layers, heads, T, T]."""

    def __init__(self, model: ImageModel, tokens: int) -> None:
        geometry = model.geometry
        self.kv_heads = geometry.kv_heads
        self.attention = torch.zeros(geometry.layers, geometry.heads, tokens, tokens, dtype=torch.float64)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.kv_heads)
        tokens, heads, dim = q.shape[1:]
        output = torch.empty_like(q)
        for head in range(heads):
            own = head * k.shape[2] // heads
            logits = q[0, :, head].double() @ k[0, :, own].double().T / dim**0.5
            attention = logits.masked_fill(torch.ones(tokens, tokens).triu(1).bool(), -torch.inf).softmax(-1)
            output[0, :, head] = (attention @ v[0, :, own].double()).float()
            self.attention[layer, head] = attention
        return output


@torch.inference_mode()
def whole_attention(model: ImageModel, ids: list[int], picture: Tensor) -> Tensor:
    """The attention of drawing a picture int64 [grid tokens], all but its last token fed back."""
    model.decoder.rope.reserve(len(ids) + model.geometry.tokens, model.device, model.dtype)
    x = torch.cat([model.embed_text(torch.tensor([ids]))[0], model.embed_image(picture[:-1])])
    matrix = WholeMatrix(model, len(x))
    model.decoder(x[None], torch.arange(len(x))[None], matrix)
    return matrix.attention


def random_pictures(model: ImageModel, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(model.geometry.codebook, (count, model.geometry.tokens), generator=generator)
