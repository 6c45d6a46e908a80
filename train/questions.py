"""Questions put to hidden states while the model trains: a linear head with several classifications at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

UNASKED = -100  # a class that asks nothing


class Questions(nn.Module):
    """The logits of every question's classes from hidden states; thrown away after training."""

    def __init__(self, hidden: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, sum(classes))

    def losses(self, hidden: Tensor, answers: Tensor) -> Tensor:
        """Each question's mean cross-entropy, float32 [questions]: hidden [n, hidden], classes int64 [n, questions]."""
        logits = self.out(self.norm(hidden.float())).split(self.classes, -1)
        return torch.stack(
            [
                cross_entropy(logit, answer, ignore_index=UNASKED)
                for logit, answer in zip(logits, answers.T, strict=True)
            ]
        )
