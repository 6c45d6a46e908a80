"""Measure a head map: how much of each head's attention leaves the neighbourhood of the token it is drawing from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry, ImageModel
from ..models.decoder import split_heads
from ..sampling import Sampling
from ..tokens import UNDRAWN, check_tokens
from .headmap import HeadMap

if TYPE_CHECKING:
    from ..prompts import Prompt
    from ..step import Check

OnProgress = Callable[[int, int], object]


def measure(
    model: ImageModel,
    prompts: Sequence[Prompt],
    neighbourhood: int | None = None,
    images_per_prompt: int = 1,
    seed: int = 0,
    guidance: float = 5.0,
    on_progress: OnProgress | None = None,
    check: Check | None = None,
) -> HeadMap:
    """Draw the prompts with the full cache, one prompt after the other, and take the `shares` of what was drawn.

    Only the rows that follow the prompt are measured, not those that guidance compares them with.

    neighbourhood: see `shares`.
    seed: image k, counted over all prompts, is drawn with seed + k.
    on_progress: called after each row of the grid with (rows drawn, rows in all); what it raises ends the measuring.
    check: called before each token; what it raises ends the measuring as well.

    Raises UserError for what cannot be drawn or measured.
    """
    # generate knows every policy, and SSD's reads head maps: at the top of the file this would import in a circle
    from ..loop import generate
    from ..prompts import prompt_rows

    neighbourhood = fit_neighbourhood(model.geometry, neighbourhood)
    ids = prompt_rows(model, prompts, images=1, negative=None, sampling=Sampling(guidance=1.0))
    rows = model.geometry.rows
    total = torch.zeros(model.geometry.layers, model.geometry.heads)
    for place, prompt in enumerate(ids):

        def on_row(row: int, *_: object, done: int = place * rows) -> None:
            if on_progress:
                on_progress(done + row + 1, len(ids) * rows)

        first = seed + place * images_per_prompt
        drawn = generate(model, [prompt], None, images_per_prompt, first, guidance, on_row=on_row, check=check)
        total += shares(model, prompt, drawn.tokens, neighbourhood)
    about = {
        "model": model.name,
        "source": "measured",
        "prompts": str(len(ids)),
        "neighbourhood": str(neighbourhood),
        "head_dim": str(model.geometry.head_dim),
    }
    return HeadMap(total / len(ids), about)


@torch.inference_mode()
def shares(model: ImageModel, ids: Sequence[int], tokens: Tensor, neighbourhood: int | None = None) -> Tensor:
    """s[l, h] of given pictures of one prompt (arXiv 2510.18716, section 3): float32 [layers, heads] on the processor.

    ids: the prompt's, as `model.encode` gives them. tokens: int64 [n, grid tokens].
    neighbourhood: how many image tokens, the newest included, count as near; the rest is outside. A row and two
        tokens unless given: the token itself, its row so far, the token above and that one's two neighbours.

    The attention is that of drawing: the query of each token that is fed back, so of all but the last. It is taken
    over image tokens alone. Queries whose whole image past is near have a share of 0 whatever their head does, so the
    mean is over the others: over image tokens `neighbourhood` to grid tokens - 2.

    The pictures run through the decoder at once, attention in blocks of a row's queries, so that no whole attention
    matrix is made. Beside the decoder's own activations a picture takes 38 MiB at Janus-Pro-7B's size: one layer's
    queries, keys and values in float32, and blocks [heads, columns, prompt + image tokens] of 2 MiB.

    Raises UserError for tokens that are no whole picture, and for a neighbourhood that leaves nothing outside.
    """
    geometry, device = model.geometry, model.device
    neighbourhood = fit_neighbourhood(geometry, neighbourhood)
    check_tokens(geometry, tokens)
    if (tokens == UNDRAWN).any():
        raise UserError("Heads are measured on pictures that were drawn to the end; some tokens of these are undrawn.")
    pictures, prompt = len(tokens), len(ids)
    text = model.embed_text(torch.tensor([list(ids)])).expand(pictures, -1, -1)
    image = model.embed_image(tokens[:, :-1].flatten().to(device)).view(pictures, geometry.tokens - 1, -1)
    x = torch.cat([text, image], 1)
    model.decoder.rope.reserve(x.shape[1], device, model.dtype)
    meter = ShareMeter(geometry, prompt, neighbourhood, device)
    model.decoder(x, torch.arange(x.shape[1], device=device).expand(pictures, -1), meter)
    return meter.shares().cpu()


class ShareMeter:
    """A decoder's `Attend` that answers whole sequences, prompt and picture, and adds up each head's share outside.

    It works in float32 and in blocks of queries: the prompt, then one row of the picture at a time.
    """

    def __init__(self, geometry: Geometry, prompt: int, neighbourhood: int, device: torch.device | str) -> None:
        self.geometry, self.prompt, self.neighbourhood = geometry, prompt, neighbourhood
        self.total = torch.zeros(geometry.layers, geometry.heads, device=device)

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
                self.add(layer, logits[..., self.prompt :], start - self.prompt)
        return output

    def add(self, layer: int, logits: Tensor, first: int) -> None:
        """Add a block of queries: logits float32 [B, heads, queries, keys] over image keys, see `outside`."""
        self.total[layer] += outside(logits, first, self.neighbourhood).sum(-1).mean(0)

    def shares(self) -> Tensor:
        """The mean over pictures and over the queries that have something outside: float32 [layers, heads]."""
        queries = self.geometry.tokens - 1 - self.neighbourhood
        return self.total / queries


def outside(logits: Tensor, first: int, neighbourhood: int) -> Tensor:
    """How much of the attention between image tokens goes outside the neighbourhood: float32 [..., heads, queries].

    logits: float32 [..., heads, queries, keys], logarithms of attention up to a constant for each query, -inf for keys
        that come after it. Keys are the image tokens from the first on, queries those from `first` on. Their softmax
        is the attention over image tokens alone, exact also where the prompt takes nearly all of it.
    """
    attention = logits.softmax(-1)
    return attention.tril(first - neighbourhood).sum(-1).clamp(max=1)  # rounded parts can add up to more


def fit_neighbourhood(geometry: Geometry, neighbourhood: int | None) -> int:
    """The neighbourhood in tokens; raises UserError where no token has another outside it."""
    size = geometry.columns + 2 if neighbourhood is None else neighbourhood
    if not 1 <= size <= geometry.tokens - 2:
        raise UserError(
            f"A neighbourhood of {size} image tokens cannot be told from the rest of a picture of {geometry.tokens}; "
            f"give 1 to {geometry.tokens - 2}."
        )
    return size
