"""How close a compressed cache stays to the full one, and to pictures that are known to be right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from ..models.base import ImageModel
from ..policies import Policy
from ..step import ImageEmbedder, prefill, step
from ..tokens import UNDRAWN


def agreement(tokens: Tensor, reference: Tensor) -> Tensor:
    """The share of equal tokens among those that both have drawn: int64 [n, m] twice -> float32 [n]."""
    drawn = (tokens != UNDRAWN) & (reference != UNDRAWN)
    return ((tokens == reference) & drawn).sum(1) / drawn.sum(1)


@torch.inference_mode()
def forced_logits(
    model: ImageModel, policy: Policy, rows: Sequence[Sequence[int]], tokens: Tensor, kv_dtype: str = "auto"
) -> Iterator[Tensor]:
    """Teacher forcing: for each image token in turn its logits, float32 [rows, codebook], after the given ones.

    rows: the prompt ids of each row, as `prompt_rows` orders them.
    tokens: of the n pictures that the rows are to draw, int64 [n, grid tokens].
    kv_dtype: what keys and values are kept in, as `generate` takes it.

    Raises UserError where the policy cannot work on this model.
    """
    tokens = tokens.to(model.device)
    cache = prefill(model, policy.fit(model), rows, kv_dtype=kv_dtype)
    try:
        embed_image = ImageEmbedder(model)
        positions = torch.tensor([[len(ids) - 1] for ids in rows], device=model.device)
        x = model.embed_text(torch.tensor([ids[-1:] for ids in rows]))[:, 0]
        for token in tokens.T:
            yield step(model, cache, x, positions)
            x = embed_image(token).repeat(len(rows) // len(tokens), 1)
            positions += 1
    finally:
        cache.free()


def divergence(reference: Iterable[Tensor], logits: Iterable[Tensor]) -> Tensor:
    """KL(reference || other) of the next token's distribution in nats, the mean over a picture's tokens: float64 [n].

    Both are given as logits, token by token, float32 [n, codebook].
    """
    each = [
        kl_div(other.double().log_softmax(-1), full.double().log_softmax(-1), reduction="none", log_target=True).sum(-1)
        for full, other in zip(reference, logits, strict=True)
    ]
    return torch.stack(each).mean(0)


def surprise(logits: Iterable[Tensor], tokens: Tensor) -> Tensor:
    """Cross-entropy of pictures in nats, the mean over a picture's tokens: float32 [n].

    logits: token by token, float32 [n, codebook].
    tokens: int64 [n, grid tokens].
    """
    each = [
        cross_entropy(given, token.to(given.device), reduction="none")
        for given, token in zip(logits, tokens.T, strict=True)
    ]
    return torch.stack(each).mean(0)
