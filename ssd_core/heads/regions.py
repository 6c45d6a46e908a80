"""Where each head's attention goes: to the prompt, near, to the margins of the picture or elsewhere, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..models.base import Geometry

# What the query of an image token can attend, each token in one of them. What is near is so at the margins too.
REGIONS = {
    "above": "the token straight above the one that asks, and its neighbours",
    "row above": "what else is in the row above",
    "own row": "from its first token to the one that asks",
    "margins": "first and last column, two rows up and further",
    "rest": "what else lies two rows up and further",
    "prompt": "the prompt, with what stands around it",
}
NEAR = 3  # above, row above, own row come first
HOLD = 0.9  # of the attention to image tokens (HeadKV, arXiv 2605.20600)


@dataclass(frozen=True, eq=False)
class Regions:
    """Means over pictures, for each head and each step, which is a row of the picture whose tokens ask.

    share: float32 [layers, heads, rows, REGIONS], parts of all attention, prompt included; they add up to 1.
    columns: float32 [layers, heads, rows, columns], the attention to margins and rest by the column it falls on.
    newest: float32 [layers, heads, rows], how many image tokens, backward from the newest, hold 0.9 of the attention to
        image tokens. By this number HeadKV tells local from global heads.
    largest: the same, how many of those that are attended most: the fewest that can hold it.
    queries: int64 [rows], of one picture. The last row has one less, as the last token is never fed back.
    """

    share: Tensor
    columns: Tensor
    newest: Tensor
    largest: Tensor
    queries: Tensor

    def whole(self, steps: Tensor) -> Tensor:
        """The mean over all queries of what is known by step: [layers, heads, rows, ...] -> [layers, heads, ...]."""
        weights = self.queries / self.queries.sum()
        return (steps.movedim(2, -1) * weights).sum(-1)

    def as_dict(self) -> dict[str, Any]:
        """The figures for JSON, to four digits after the point: by [layer][head], and by [layer][head][step]."""
        figures = {name: self.share[..., place] for place, name in enumerate(REGIONS)}
        counts = {"newest": self.newest, "largest": self.largest}
        return {
            "regions": {name: self._figures(steps) for name, steps in figures.items()},
            "columns": self._figures(self.columns),
            "tokens_that_hold": {"attention": HOLD} | {name: self._figures(steps) for name, steps in counts.items()},
        }

    def _figures(self, steps: Tensor) -> dict[str, Any]:
        return {"heads": rounded(self.whole(steps)), "steps": rounded(steps)}


class RegionMeter:
    """A meter of `Regions`. It keeps sums by head, step and column, never attention.

    Raises UserError for a grid that has nothing between its margins.
    """

    def __init__(self, geometry: Geometry, device: torch.device | str) -> None:
        if geometry.columns < 3:
            raise UserError(f"Margins are told from the rest in grids of 3 columns or more, not {geometry.columns}.")
        self.geometry = geometry
        steps = geometry.layers, geometry.heads, geometry.rows
        # above, row above, own row, prompt, and by column what lies further up
        self.parts = torch.zeros(*steps, NEAR + 1 + geometry.columns, device=device)
        self.newest, self.largest = torch.zeros(*steps, device=device), torch.zeros(*steps, device=device)
        self.pictures = torch.zeros(geometry.layers, geometry.rows, dtype=torch.int64)

    def add(self, layer: int, logits: Tensor, prompt: int) -> None:
        row = (logits.shape[-1] - prompt - 1) // self.geometry.columns
        self.parts[layer, :, row] += self.split(logits.softmax(-1), prompt, row).sum((0, 2))
        image = logits[..., prompt:].softmax(-1)
        self.newest[layer, :, row] += newest_holding(image).sum((0, 2))
        self.largest[layer, :, row] += largest_holding(image).sum((0, 2))
        self.pictures[layer, row] += len(logits)

    def split(self, attention: Tensor, prompt: int, row: int) -> Tensor:
        """Attention float32 [B, heads, queries, prompt + image keys] of a row -> its parts [..., parts]."""
        columns, further = self.geometry.columns, max(row - 1, 0)
        text, far, above, own = attention.split(
            [prompt, further * columns, min(row, 1) * columns, attention.shape[-2]], -1
        )
        straight = above.tril(1).triu(-1).sum(-1)
        beside = above.tril(-2).sum(-1) + above.triu(2).sum(-1)
        near = torch.stack([straight, beside, own.sum(-1), text.sum(-1)], -1)
        return torch.cat([near, far.unflatten(-1, (further, columns)).sum(-2)], -1)

    def regions(self) -> Regions:
        """What was seen, on the processor."""
        geometry = self.geometry
        queries = torch.full((geometry.rows,), geometry.columns)
        queries[-1] -= 1
        asked = (self.pictures * queries)[:, None]
        newest, largest = (total.cpu() / asked for total in (self.newest, self.largest))
        near, text, columns = (self.parts.cpu() / asked[..., None]).split([NEAR, 1, geometry.columns], -1)
        margins, rest = columns[..., [0, -1]].sum(-1, keepdim=True), columns[..., 1:-1].sum(-1, keepdim=True)
        return Regions(torch.cat([near, margins, rest, text], -1), columns, newest, largest, queries)


def newest_holding(attention: Tensor) -> Tensor:
    """How many keys, backward from the query's own, hold HOLD of its attention: int64 [..., queries].

    attention: float32 [..., queries, keys], adding up to 1 for each query. The last key is that of the last query.
    """
    queries, keys = attention.shape[-2:]
    # a key is needed if what comes before it and itself is more than may be left out
    return (attention.cumsum(-1) > 1 - HOLD).tril(keys - queries).sum(-1)


def largest_holding(attention: Tensor) -> Tensor:
    """The smallest number of keys that hold HOLD of a query's attention; see `newest_holding`."""
    return (attention.sort(-1, descending=True).values.cumsum(-1) < HOLD).sum(-1) + 1


def rounded(figures: Tensor) -> Any:
    """Nested lists of figures that a file need not hold in full."""
    return figures.double().mul(1e4).round().div(1e4).tolist()
