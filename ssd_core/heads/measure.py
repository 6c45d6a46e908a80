"""Measure a head map: how much of each head's attention leaves the neighbourhood of the token it is drawing from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry, ImageModel
from ..sampling import Sampling
from .headmap import HeadMap
from .replay import Meter, replay

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
    meters: Sequence[Meter] = (),
) -> HeadMap:
    """Draw the prompts with the full cache, one prompt after the other, and take the `shares` of what was drawn.

    Only the rows that follow the prompt are measured, not those that guidance compares them with.

    neighbourhood: see `shares`.
    seed: image k, counted over all prompts, is drawn with seed + k.
    on_progress: called after each row of the grid with (rows drawn, rows in all); what it raises ends the measuring.
    check: called before each token; what it raises ends the measuring as well.
    meters: what else is to see the attention to these pictures.

    Raises UserError for what cannot be drawn or measured.
    """
    # generate knows every policy, and SSD's reads head maps: at the top of the file this would import in a circle
    from ..loop import generate
    from ..prompts import prompt_rows

    own = ShareMeter(model.geometry, fit_neighbourhood(model.geometry, neighbourhood), model.device)
    far = ReachMeter(model.geometry, model.device)
    ids = prompt_rows(model, prompts, images=1, negative=None, sampling=Sampling(guidance=1.0))
    rows = model.geometry.rows
    for place, prompt in enumerate(ids):

        def on_row(row: int, *_: object, done: int = place * rows) -> None:
            if on_progress:
                on_progress(done + row + 1, len(ids) * rows)

        first = seed + place * images_per_prompt
        drawn = generate(model, [prompt], None, images_per_prompt, first, guidance, on_row=on_row, check=check)
        replay(model, prompt, drawn.tokens, [own, far, *meters])
    about = {
        "model": model.name,
        "source": "measured",
        "prompts": str(len(ids)),
        "neighbourhood": str(own.neighbourhood),
        "head_dim": str(model.geometry.head_dim),
    }
    return HeadMap(own.shares(), about, far.beyond(), far.peak.cpu())


def shares(model: ImageModel, ids: Sequence[int], tokens: Tensor, neighbourhood: int | None = None) -> Tensor:
    """s[l, h] of given pictures of one prompt (arXiv 2510.18716, section 3): float32 [layers, heads] on the processor.

    ids, tokens: see `replay`.
    neighbourhood: how many image tokens, the newest included, count as near; the rest is outside. A row and two
        tokens unless given: the token itself, its row so far, the token above and that one's two neighbours.

    Attention is taken over image tokens alone. Queries whose whole image past is near have a share of 0 whatever their
    head does, so the mean is over the others: over image tokens `neighbourhood` to grid tokens - 2.

    Raises UserError for tokens that are no whole picture, and for a neighbourhood that leaves nothing outside.
    """
    meter = ShareMeter(model.geometry, fit_neighbourhood(model.geometry, neighbourhood), model.device)
    replay(model, ids, tokens, [meter])
    return meter.shares()


class ShareMeter:
    """Adds up each head's share outside."""

    def __init__(self, geometry: Geometry, neighbourhood: int, device: torch.device | str) -> None:
        self.neighbourhood = neighbourhood
        self.total = torch.zeros(geometry.layers, geometry.heads, device=device)
        self.queries = torch.zeros(geometry.layers, dtype=torch.int64)  # that have something outside

    def add(self, layer: int, logits: Tensor, prompt: int) -> None:
        pictures, _, queries, keys = logits.shape
        last = keys - prompt
        self.total[layer] += outside(logits[..., prompt:], last - queries, self.neighbourhood).sum((0, 2))
        self.queries[layer] += pictures * min(queries, max(last - self.neighbourhood, 0))

    def shares(self) -> Tensor:
        """The mean over pictures and over the queries that have something outside: float32 [layers, heads]."""
        return self.total.cpu() / self.queries[:, None]


class ReachMeter:
    """Adds up how much of each head's attention goes beyond the newest 1, 2, ... up to a row and 1 image tokens.

    peak: the most that went beyond the last of these at any one token, float32 [layers, heads].
    """

    def __init__(self, geometry: Geometry, device: torch.device | str) -> None:
        self.total = torch.zeros(geometry.layers, geometry.heads, geometry.columns + 1, device=device)
        self.peak = torch.zeros(geometry.layers, geometry.heads, device=device)
        self.queries = torch.zeros(geometry.layers, dtype=torch.int64)

    def add(self, layer: int, logits: Tensor, prompt: int) -> None:
        pictures, _, queries, _ = logits.shape
        attention = logits.softmax(-1)[..., prompt:]
        first = attention.shape[-1] - queries
        for window in range(self.total.shape[-1]):
            far = attention.tril(first - 1 - window).sum(-1)
            self.total[layer, :, window] += far.sum((0, 2))
        self.peak[layer] = torch.maximum(self.peak[layer], far.amax((0, 2)).clamp(max=1))
        self.queries[layer] += pictures * queries

    def beyond(self) -> Tensor:
        """The mean over pictures and queries: float32 [layers, heads, columns + 1]."""
        return self.total.cpu() / self.queries[:, None, None]


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
