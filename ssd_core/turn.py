"""One turn of the token loop, and whoever takes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cache.cache import SlotCache
from .models.base import ImageModel
from .models.decoder import Attend
from .sampling import Sampling
from .step import ImageEmbedder, feed, next_tokens
from .tokens import UNDRAWN


class Turn:
    """All that happens for one token of every picture, over contiguous tensors that stay where they are and are written
    in place: so a CUDA graph can hold it, and a kernel take it as a whole.

    x: what is fed next, [rows, hidden]; positions: where it stands, int64 [rows, 1].
    at: the grid's token that comes, int64 [1].
    tokens: the pictures so far, int64 [images, grid tokens], -1 where one is not drawn yet.
    uniform: each image's random number at each place of the grid, float32 [grid tokens, images] in [0, 1).
    stays: which tokens are kept from a start, bool [grid tokens, images]; None where none is.
    """

    def __init__(
        self,
        model: ImageModel,
        sampling: Sampling,
        rows: Sequence[Sequence[int]],
        uniform: Tensor,
        kept: Tensor | None = None,
    ) -> None:
        """rows: the prompt ids of each row, conditional rows first.
        kept: tokens that stay, int64 [images, grid tokens], -1 where one is to be drawn."""
        device = model.device
        self.model, self.sampling, self.uniform, self.kept = model, sampling, uniform.contiguous(), kept
        self.embed_image = ImageEmbedder(model)
        self.x = model.embed_text(torch.tensor([ids[-1:] for ids in rows]))[:, 0].contiguous()
        self.positions = torch.tensor([[len(ids) - 1] for ids in rows], device=device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        if kept is None:
            self.tokens = torch.full(uniform.T.shape, UNDRAWN, dtype=torch.int64, device=device)
            self.stays = None
        else:
            self.tokens = kept.clone(memory_format=torch.contiguous_format).to(device)
            self.stays = (self.tokens != UNDRAWN).T.contiguous()

    def draw(self, cache: Attend) -> None:
        """Feed the newest token of every row and draw the next, or take it from the start where it stays."""
        uniform = self.uniform.index_select(0, self.at)[0]
        token = next_tokens(self.model, cache, self.sampling, self.x, self.positions, uniform)
        if self.stays is not None:
            stays = self.stays.index_select(0, self.at)[0]
            token = torch.where(stays, self.tokens.index_select(1, self.at)[:, 0], token)
        self.tokens.index_copy_(1, self.at, token[:, None])
        self.go_on(token)

    def feed(self, cache: Attend) -> None:
        """Feed the newest token of every row where the next one stays in every picture: nothing is sampled."""
        feed(self.model, cache, self.x, self.positions)
        self.go_on(self.tokens.index_select(1, self.at)[:, 0])

    def go_on(self, token: Tensor) -> None:
        """Make ready for the next turn, which feeds the token, int64 [images], to all rows of its image."""
        self.x.view(-1, *token.shape, self.x.shape[1]).copy_(self.embed_image(token))
        self.positions.add_(1)
        self.at.add_(1)


class Step:
    """Draws the next token of every picture each time it is called: turn by turn, as `Turn` says it. Others do the same
    in other ways, and may draw several at once.

    told: which way it was, in words, and why, if another one was meant.
    is_captured: whether it holds a graph, with the memory that a plan counts for one.
    """

    is_captured = False

    def __init__(self, turn: Turn, cache: SlotCache, told: str = "plain") -> None:
        self.turn, self.cache, self.told = turn, cache, told

    def __call__(self, most: int = 1) -> int:
        """Draw `most` tokens at most; how many were drawn."""
        self.turn.draw(self.cache)
        return 1

    def close(self) -> None:
        """Give back what it holds beside turn and cache."""
