"""Run given pictures through a model once more, and show the attention of drawing them to whoever measures it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry, ImageModel
from ..models.decoder import split_heads
from ..tokens import UNDRAWN, check_tokens


class Meter(Protocol):
    """What is shown the attention, block by block, and adds up what it wants to know."""

    def add(self, layer: int, logits: Tensor, prompt: int) -> None:
        """Take the queries of one row of the picture.

        logits: float32 [B, heads, queries, prompt + image keys], logarithms of attention up to a constant for each
            query, -inf for keys that come after it. The last key is that of the last query. Not to be changed.
        """
        ...


@torch.inference_mode()
def replay(model: ImageModel, ids: Sequence[int], tokens: Tensor, meters: Sequence[Meter]) -> None:
    """Show the meters every layer's attention in pictures of one prompt.

    ids: the prompt's, as `model.encode` gives them. tokens: int64 [n, grid tokens].

    The attention is that of drawing: the query of each token that is fed back, so of all but the last.

    The pictures run through the decoder at once, attention in blocks of a row's queries, so that no whole attention
    matrix is made. Beside the decoder's own activations a picture takes 38 MiB at Janus-Pro-7B's size: one layer's
    queries, keys and values in float32, and blocks [heads, columns, prompt + image tokens] of 2 MiB; a meter may
    take some more of these for a while.

    Raises UserError for tokens that are no whole picture.
    """
    geometry, device = model.geometry, model.device
    check_tokens(geometry, tokens)
    if (tokens == UNDRAWN).any():
        raise UserError("Heads are measured on pictures that were drawn to the end; some tokens of these are undrawn.")
    pictures = len(tokens)
    text = model.embed_text(torch.tensor([list(ids)])).expand(pictures, -1, -1)
    image = model.embed_image(tokens[:, :-1].flatten().to(device)).view(pictures, geometry.tokens - 1, -1)
    x = torch.cat([text, image], 1)
    model.decoder.rope.reserve(x.shape[1], device, model.dtype)
    shown = Shown(geometry, len(ids), meters)
    model.decoder(x, torch.arange(x.shape[1], device=device).expand(pictures, -1), shown)


class Shown:
    """A decoder's `Attend` that answers whole sequences, prompt and picture, and lets meters see the picture's part.

    It works in float32 and in blocks of queries: the prompt, then one row of the picture at a time.
    """

    def __init__(self, geometry: Geometry, prompt: int, meters: Sequence[Meter]) -> None:
        self.geometry, self.prompt, self.meters = geometry, prompt, meters

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.geometry.kv_heads)
        _, tokens, heads, dim = q.shape
        group = heads // k.shape[2]
        # [B, T, heads or kv_heads, D] -> float32 [B, heads, T, D]
        queries = q.transpose(1, 2).float() / dim**0.5
        keys, values = (part.transpose(1, 2).float().repeat_interleave(group, 1) for part in (k, v))
        output = torch.empty_like(q)
        for start, stop in pairwise([0, *range(self.prompt, tokens, self.geometry.columns), tokens]):
            logits = queries[:, :, start:stop] @ keys[:, :, :stop].mT
            seen = torch.ones(stop - start, stop, dtype=torch.bool, device=q.device).tril(start)
            logits.masked_fill_(~seen, -torch.inf)
            output[:, start:stop] = (logits.softmax(-1) @ values[:, :, :stop]).transpose(1, 2).to(q.dtype)
            if start >= self.prompt:
                for meter in self.meters:
                    meter.add(layer, logits, self.prompt)
        return output
