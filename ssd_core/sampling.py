"""From logits to the next tokens: guidance, filters, and one random stream an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    guidance: w of uncond + w (cond - uncond) (classifier-free guidance, arXiv 2207.12598); 1 = the prompt alone.
    temperature: divides the logits; 0.001 or more.
    top_k: only the k likeliest tokens and those as likely as the k-th; 0 = all.
    top_p: only the likeliest tokens that make up this share, the one that reaches it included; 1 = all.
    greedy: the likeliest token always; the three above then have no effect and must be left alone.
    """

    guidance: float = 5.0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.guidance < math.inf:
            raise UserError(f"guidance is 0 or more (1 switches it off), not {self.guidance}.")
        if not 0.001 <= self.temperature < math.inf:
            raise UserError(
                f"temperature is 0.001 or more, not {self.temperature}; for the likeliest token use greedy."
            )
        if self.top_k < 0:
            raise UserError(f"top_k is a number of tokens, 0 for all, not {self.top_k}.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is a share above 0 and at most 1, not {self.top_p}.")
        if self.greedy and (self.temperature, self.top_k, self.top_p) != (1.0, 0, 1.0):
            raise UserError(
                "greedy takes the likeliest token, so temperature, top_k and top_p have no effect; leave them out."
            )

    @property
    def guided(self) -> bool:
        """Whether each image takes a second, unconditional row."""
        return self.guidance != 1

    @property
    def rows_of_image(self) -> int:
        """How many rows each image takes."""
        return 1 + self.guided

    def guide(self, logits: Tensor) -> Tensor:
        """float32 [rows, codebook], conditional rows first -> what the images' tokens are drawn from, [n, codebook]."""
        if not self.guided:
            return logits
        conditional, unconditional = logits.chunk(2)
        return torch.lerp(unconditional, conditional, self.guidance)

    def next_tokens(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """float32 [rows, codebook], conditional rows first, and float32 [n] in [0, 1) -> int64 [n]."""
        logits = self.guide(logits)
        if self.greedy:
            return logits.argmax(-1)
        if self.temperature != 1:
            logits = logits / self.temperature
        if self.top_k and self.top_k < logits.shape[-1]:
            least = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probabilities = torch.softmax(logits, -1)
        if self.top_p < 1:
            falling, order = probabilities.sort(dim=-1, descending=True, stable=True)
            beyond = falling.cumsum(-1) - falling >= self.top_p
            probabilities = probabilities.masked_fill(beyond.scatter(-1, order, beyond), 0)
        return draw(probabilities, uniform)


def draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Draw by the inverse of the cumulative distribution: float32 [n, codebook] (any sum) and [n] -> int64 [n].

    One random number a token, so two runs with slightly different logits (a compressed cache and a full one) stay
    together as long as they can.
    """
    # a parallel sum may round up where nothing is added, and so hand a sliver to a token that cannot be drawn
    cumulative = probabilities.cumsum(-1).masked_fill(probabilities == 0, 0)
    total = cumulative.amax(-1, keepdim=True)
    # strictly below the sum, so that rounding never lands behind the last token that can be drawn
    target = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return (cumulative > target).byte().argmax(-1)


def streams(seeds: Sequence[int], steps: int) -> Tensor:
    """The random numbers of each image, float32 [n, steps] in [0, 1), from its seed alone, drawn on the processor."""
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
