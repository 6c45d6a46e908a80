"""The heads that ask, against answers that are right and wrong."""

from __future__ import annotations

import pytest
import torch

from train import foresight, hindsight, reading
from train.questions import UNASKED, Questions


@pytest.mark.parametrize("classes", [foresight.CLASSES, hindsight.CLASSES, reading.CLASSES])
def test_the_loss_is_small_for_the_right_answers_alone(classes: tuple[int, ...]) -> None:
    head = Questions(sum(classes), classes)
    head.norm = torch.nn.Identity()  # type: ignore[assignment]
    head.out.weight.data.copy_(50 * torch.eye(sum(classes)))
    head.out.bias.data.zero_()
    first = torch.tensor([0, *classes[:-1]]).cumsum(0)
    answers = torch.tensor([[size - 1 for size in classes], [0 for _ in classes]])
    right = torch.zeros(2, sum(classes)).scatter(1, answers + first, 1.0)
    assert head.losses(right, answers).max() < 1e-4
    for question, size in enumerate(classes):
        own = slice(int(first[question]), int(first[question]) + size)
        wrong = right.clone()
        wrong[:, own] = wrong[:, own].roll(1, -1)
        losses = head.losses(wrong, answers)
        assert [bool(loss > 5) for loss in losses] == [other == question for other in range(len(classes))]
        unasked = answers.clone()
        unasked[1] = UNASKED
        unasked_wrong = right.clone()
        unasked_wrong[1, own] = wrong[1, own]
        assert head.losses(unasked_wrong, unasked).max() < 1e-4
