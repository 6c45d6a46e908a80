"""What several methods read from a view."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import View

RECENT = 1e6  # above any attention score, below any pin


def newest_above(view: View, score: Tensor, recent: int) -> Tensor:
    """float32 [n, S]: `score`, but the `recent` newest tokens above any, the newer the higher."""
    age = view.newest - view.position
    return score.where(age >= recent, RECENT - age)


def two_rows(columns: int, free: int) -> int:
    """Newest tokens for a method that keeps recent rows without saying how many: two rows, or half of the `free` slots,
    those that are not pinned, where that is less, but a row and one token at least, which has the token straight
    above."""
    return max(columns + 1, min(2 * columns, free // 2))


def rounded(score: Tensor) -> Tensor:
    """The scores to three digits, so that of tokens that differ by less the older goes. For methods in which many do;
    else the last digits, which change with the batch and the machine, would have a say in the picture."""
    return score.half().float()


def attention_of_queries(view: View) -> Tensor:
    """float32 [n, S]: what the newest queries attend of the tokens still held, summed over them. Each attends to what
    came before it, and to its own token."""
    asked, group, dim = view.queries.shape[1:]
    at = torch.arange(view.newest - asked + 1, view.newest + 1, device=view.position.device)
    later = view.position[:, None] > at[:, None]  # [n, Q, S]
    logits = torch.bmm(view.queries.flatten(1, 2), view.keys.mT) * dim**-0.5
    weights = logits.masked_fill_(later.repeat_interleave(group, 1), -torch.inf).softmax(-1, dtype=torch.float32)
    return weights.nan_to_num_(0).sum(1)  # of what a query could attend nothing may be left
