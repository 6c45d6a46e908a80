"""What a training step is made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import log_softmax

from ssd_core.evaluate.scenes import BACKGROUNDS, GRID
from train import foresight
from train.model import build
from train.text import build as build_tokenizer
from train.tokens import Captions, batch, choices_loss, forward, guided_loss, places

SIZE, TWINS = 8, 2


@pytest.fixture(scope="module")
def captions() -> Captions:
    return Captions(build_tokenizer())


def test_the_last_rows_are_the_first_ones_without_their_captions(captions: Captions) -> None:
    ids, lengths, pictures, ahead = batch(3, SIZE, captions)
    pad = captions.tokenizer.pad_token_id
    assert ids.shape == (SIZE, int(lengths.max()))
    assert pictures.shape == (SIZE, GRID * GRID)
    assert pictures[-TWINS:].equal(pictures[:TWINS])
    assert ahead[-TWINS:].equal(ahead[:TWINS])
    for row, length in enumerate(lengths.tolist()):
        caption, rest = ids[row, 1 : length - 1], ids[row, length:]
        assert ids[row, length - 1] == captions.begin
        assert (rest == pad).all()
        assert (caption == pad).all() if row >= SIZE - TWINS else (caption != pad).all()
    assert lengths[-TWINS:].equal(lengths[:TWINS])
    again = batch(3, SIZE, captions)
    assert all(one.equal(other) for one, other in zip((ids, lengths, pictures, ahead), again, strict=True))
    assert not batch(4, SIZE, captions)[2].equal(pictures)


@torch.inference_mode()
def test_padded_rows_are_as_rows_alone(captions: Captions) -> None:
    model = build(captions.tokenizer)
    ids, lengths, pictures, _ = batch(0, 4, captions)
    logits, middle = forward(model, ids, lengths, pictures)
    for row, length in enumerate(lengths.tolist()):
        text = model.model.language_model.embed_tokens(ids[row : row + 1, :length])
        image = model.prepare_embeddings_for_image_generation(pictures[row : row + 1, :-1])
        layers = model.model.language_model(
            inputs_embeds=torch.cat([text, image], 1), use_cache=False, output_hidden_states=True
        ).hidden_states
        expected = model.model.generation_head(layers[-1][:, length - 1 :])[0]
        torch.testing.assert_close(logits[row], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(middle[row], layers[foresight.LAYER][0, length - 1 :], rtol=1e-3, atol=1e-4)


def test_choices_are_the_background_and_the_codes_where_objects_begin() -> None:
    grounds, red, blue = len(BACKGROUNDS), len(BACKGROUNDS), len(BACKGROUNDS) + 1
    picture = torch.zeros(1, GRID, GRID, dtype=torch.int64)
    picture[0, 5:8, 5:8] = red
    picture[0, 15, 20] = blue
    logits = torch.randn(1, GRID * GRID, 12, generator=torch.Generator().manual_seed(0))
    objects = log_softmax(logits[0, :, grounds:], -1)
    begins = -(objects[5 * GRID + 5, 0] + objects[15 * GRID + 20, 1]) / 2
    background = -log_softmax(logits[0, 0], -1)[0]
    torch.testing.assert_close(choices_loss(logits, picture.flatten(1)), begins + 0.1 * background)


def test_guidance_magnifies_what_twins_differ_in() -> None:
    pictures = torch.zeros(SIZE, GRID * GRID, dtype=torch.int64)
    logits = torch.zeros(SIZE, GRID * GRID, 2)
    logits[:TWINS, :, 0], logits[-TWINS:, :, 0] = 1.0, 0.5
    logits[TWINS:-TWINS] = 99.0  # rows without a twin
    logits[TWINS:-TWINS, :, 0] = -99.0
    assert 20 < places().sum() < 200
    logits[:TWINS, places(), 0] = -99.0  # where an object may begin, which is not asked
    for guidance in (1.0, 4.0):
        guided = 0.5 + guidance * 0.5
        assert guided_loss(logits, pictures, guidance).item() == pytest.approx(math.log1p(math.exp(-guided)))
