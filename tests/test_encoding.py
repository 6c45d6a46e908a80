from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from ssd_core import Result, UserError, encode, generate, load, paint
from ssd_core.models.base import ImageModel
from tests.table import check_sentence
from tests.tiny import tiny


@cache
def shapes() -> ImageModel:
    return load("janus-shapes", "cpu")


@pytest.fixture(scope="module")
def drawn() -> Result:
    return generate(shapes(), ["a red circle on a white background", "two blue squares"], guidance=3.0)


def test_the_embedded_model_reads_what_it_drew(drawn: Result) -> None:
    tokens = encode(shapes(), drawn.images)
    assert tokens.dtype == torch.int64
    assert (tokens == drawn.tokens).float().mean() > 0.97
    assert (paint(shapes(), tokens) - drawn.images).abs().mean() < 0.005


def test_a_picture_of_another_size_is_read_in_its_middle(drawn: Result) -> None:
    larger = drawn.images.repeat_interleave(3, 1).repeat_interleave(3, 2)
    wide = torch.zeros(2, 288, 400, 3)
    wide[:, :, 56:-56] = larger
    for pictures in (larger, wide):
        assert (encode(shapes(), pictures) == drawn.tokens).float().mean() > 0.9
    assert (encode(shapes(), wide[:, :, :288]) == drawn.tokens).float().mean() < 0.9


def test_pictures_are_read_one_by_one_and_as_they_are() -> None:
    model = tiny()
    tokens = torch.arange(16).expand(2, -1)
    pictures = model.decode_image(tokens)
    assert encode(model, pictures).equal(tokens)
    assert encode(model, pictures[:1]).equal(tokens[:1])


@pytest.mark.parametrize(
    "pictures", [torch.zeros(8, 8, 3), torch.zeros(1, 8, 8, 4), torch.zeros(0, 8, 8, 3), torch.zeros(1, 8, 0, 3)]
)
def test_tables_of_another_shape_are_refused(pictures: Tensor) -> None:
    with pytest.raises(UserError, match="Pictures are a table") as refusal:
        encode(tiny(), pictures)
    check_sentence(refusal.value)


@pytest.mark.parametrize(
    "pictures",
    [
        torch.full((1, 8, 8, 3), 255, dtype=torch.uint8),
        torch.full((1, 8, 8, 3), 1.5),
        torch.full((1, 8, 8, 3), -0.1),
        torch.full((1, 8, 8, 3), torch.nan),
    ],
)
def test_other_values_are_refused(pictures: Tensor) -> None:
    with pytest.raises(UserError, match="divide") as refusal:
        encode(tiny(), pictures)
    check_sentence(refusal.value)
