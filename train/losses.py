"""The losses on the codes of pictures, beside the cross-entropy on all of them alike."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ssd_core.evaluate.scenes import BACKGROUNDS

from .batches import Batch, places, twins_of
from .questions import UNASKED


def choices_loss(logits: Tensor, batch: Batch) -> Tensor:
    """How well the choices are made that the caption rules: the first code, which is the background, and the codes
    where an object's outline comes out of it. Logits [B, K, codebook].

    The latter are judged among the codes of objects alone: whether an object begins here or later is chance, and
    counting that more often where it happens to begin would teach the model to begin too soon.
    """
    grounds = len(BACKGROUNDS)
    begins = batch.free & (batch.codes >= grounds)
    among_objects = cross_entropy(logits[begins][:, grounds:], batch.codes[begins] - grounds)
    return among_objects + 0.1 * cross_entropy(logits[:, 0], batch.codes[:, 0])


def guided_loss(logits: Tensor, batch: Batch, guidance: float) -> Tensor:
    """Cross-entropy of the scenes that have twins, under guidance, where the caption rules nothing.

    Guidance magnifies every difference between the two rows, also where there should be none and the difference is
    only what either has not learned. A small model's pictures fall apart over it unless it learns that, too. Where an
    object may begin guidance is meant to make a difference: there the loss would teach the model to begin too late.
    """
    twins = twins_of(len(logits))
    guided = torch.lerp(logits[-twins:], logits[:twins], guidance)
    codes, at = batch.codes[:twins], batch.at[:twins]
    ruled = batch.free[:twins] & torch.from_numpy(places()).to(at.device)[at]
    told = ~ruled & (codes != UNASKED)
    return cross_entropy(guided[told], codes[told])
