"""Attention of one query per head over its slots, written plainly: the oracle of any faster kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_slots(
    q: Tensor, keys: Tensor, values: Tensor, output: Tensor | None = None, bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Softmax attention of n (row, kv head) pairs, each with G query heads, over S slots.

    q [n, G, D], keys and values [n, S, D] -> the attention row float32 [n, G, S] and the answers [n, G, D], which are
    written to `output` where it is given. A row this short is computed outright, so its scores cost nothing extra.

    bias: [n, 1, m], added to the logits of the last m slots.
    """
    empty = q.new_empty(1)
    logits = torch.baddbmm(empty, q, keys.mT, beta=0, alpha=q.shape[-1] ** -0.5)
    if bias is not None:
        logits[:, :, -bias.shape[2] :].add_(bias)
    weights = torch.softmax(logits, -1, dtype=torch.float32)
    # a plain bmm of single rows torch.compile would take apart on the processor, into a loop half as fast
    return weights, torch.baddbmm(empty, weights.to(values.dtype), values, beta=0, out=output)


def attend_scaled(
    q: Tensor,
    numbers: Tensor,
    scale: Tensor,
    largest: float,
    room: Tensor,
    output: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """`attend_slots` over keys and values that are numbers * scale / largest -> the attention row.

    numbers [2, n, S, D] in any precision, scale [2, n, S, 1]; room [n, S, D] of q's precision, which is overwritten.
    A key's scale is taken into its logit and a value's into its weight, and `largest` into the products, where nothing
    of half precision runs over.
    """
    empty = q.new_empty(1)
    logits = torch.baddbmm(empty, q, room.copy_(numbers[0]).mT, beta=0, alpha=q.shape[-1] ** -0.5 / largest)
    logits = logits.float() * scale[0].mT
    if bias is not None:
        logits[:, :, -bias.shape[2] :].add_(bias)
    weights = torch.softmax(logits, -1)
    scaled = (weights * scale[1].mT).to(room.dtype)
    torch.baddbmm(empty, scaled, room.copy_(numbers[1]), beta=0, alpha=1 / largest, out=output)
    return weights
