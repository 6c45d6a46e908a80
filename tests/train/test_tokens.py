"""What a training step is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax
from transformers import JanusForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPast

from ssd_core.evaluate.scenes import BACKGROUNDS, GRID
from train import foresight, hindsight, reading, spatial
from train.batches import Batch, Captions, batch, free, places, skimmed, twins_of
from train.losses import choices_loss, guided_loss
from train.model import build
from train.questions import UNASKED
from train.text import build as build_tokenizer
from train.tokens import forward

SIZE, TWINS = 8, 2
TOKENS = GRID * GRID


@pytest.fixture(scope="module")
def captions() -> Captions:
    return Captions(build_tokenizer())


def test_the_last_rows_are_the_first_ones_without_their_captions(captions: Captions) -> None:
    seen = batch(3, SIZE, captions, skim=False)
    assert twins_of(SIZE) == TWINS
    assert seen.ids.shape == (SIZE, int(seen.lengths.max()))
    assert seen.at.equal(torch.arange(TOKENS).expand(SIZE, -1))
    assert seen.before.equal(seen.codes[:, :-1])
    assert seen.codes.min() >= 0
    assert (seen.asked[-TWINS:] == reading.NOTHING).all()
    assert (seen.asked[:-TWINS, 0] != reading.NOTHING).all()
    for part in (seen.at, seen.before, seen.codes, seen.free, seen.ahead, seen.behind, seen.lengths):
        assert part[-TWINS:].equal(part[:TWINS])
    for row, length in enumerate(seen.lengths.tolist()):
        caption, rest = seen.ids[row, 1 : length - 1], seen.ids[row, length:]
        assert seen.ids[row, length - 1] == captions.begin
        assert (rest == captions.pad).all()
        assert (caption == captions.pad).all() if row >= SIZE - TWINS else (caption != captions.pad).all()
    assert all(one.equal(other) for one, other in zip(seen, batch(3, SIZE, captions, skim=False), strict=True))
    assert not batch(4, SIZE, captions, skim=False).codes.equal(seen.codes)


def test_a_skimmed_batch_shows_some_tokens_of_the_whole_one(captions: Captions) -> None:
    whole, seen = (batch(3, SIZE, captions, skim=skim) for skim in (False, True))
    assert seen.ids.equal(whole.ids)
    assert seen.asked.equal(whole.asked)
    told = seen.codes != UNASKED
    assert (told.float().sum(1) / TOKENS > 0.1).all()
    assert (told.float().sum(1) / TOKENS < 0.4).all()
    assert told[:, 0].all()
    assert (seen.at[:, 0] == 0).all()
    for row in range(SIZE):
        own = told[row]
        at = seen.at[row, own]
        assert (at.diff() > 0).all()
        assert seen.codes[row, own].equal(whole.codes[row, at])
        assert seen.free[row, own].equal(whole.free[row, at])
        assert seen.ahead[row, own].equal(whole.ahead[row, at])
        assert seen.behind[row, own].equal(whole.behind[row, at])
        assert seen.before[row][own[1:]].equal(whole.codes[row, at[1:] - 1])
        assert (seen.ahead[row, ~own] == UNASKED).all()
        assert (seen.behind[row, ~own] == UNASKED).all()
        assert not seen.free[row, ~own].any()
    for part in (seen.at, seen.before, seen.codes):
        assert part[-TWINS:].equal(part[:TWINS])


def test_what_is_skimmed_tells_nothing_of_the_code_that_comes() -> None:
    picture = np.zeros((1, TOKENS), np.int64)
    at = int(np.flatnonzero(places())[20])
    with_object = picture.copy()
    with_object[0, at:] = len(BACKGROUNDS)
    first, second = (skimmed(each, np.random.default_rng(1)) for each in (picture, with_object))
    assert (first[0, : at + 1] == second[0, : at + 1]).all()
    assert first[0, 0]
    many = skimmed(np.repeat(with_object, 4000, 0), np.random.default_rng(2)).mean(0)
    elsewhere = ~places()
    elsewhere[0] = False
    after = np.arange(TOKENS) > at
    np.testing.assert_allclose(many[places()], 0.5, atol=0.05)
    np.testing.assert_allclose(many[elsewhere & after], 0.35, atol=0.05)
    np.testing.assert_allclose(many[elsewhere & ~after], 0.06, atol=0.03)


@torch.inference_mode()
@pytest.mark.parametrize("skim", [False, True])
def test_rows_are_as_rows_alone_with_a_mask_over_what_is_skipped(captions: Captions, skim: bool) -> None:
    model = build(captions.tokenizer)
    whole, seen = (batch(0, 4, captions, skim=each) for each in (False, skim))
    known = forward(model, seen)
    for row, length in enumerate(seen.lengths.tolist()):
        told = seen.codes[row] != UNASKED
        at = seen.at[row, told]
        visible = torch.zeros(length + TOKENS - 1, dtype=torch.bool)
        visible[:length] = True
        visible[length + at[1:] - 1] = True
        layers = alone(model, whole.ids[row, :length], whole.codes[row], visible).hidden_states
        at += length - 1
        expected = model.model.generation_head(layers[-1][0, at])
        torch.testing.assert_close(known.logits[row, told], expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(known.ahead[row, told], layers[foresight.LAYER][0, at], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(known.behind[row, told], layers[hindsight.LAYER][0, at], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(known.caption[row], layers[reading.LAYER][0, length - 1], rtol=1e-3, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("skim", [False, True])
def test_what_spatial_heads_look_at_is_measured_as_transformers_attends(captions: Captions, skim: bool) -> None:
    model = build(captions.tokenizer)
    model.set_attn_implementation("eager")
    for layer in model.model.language_model.layers:
        layer.self_attn.q_proj.weight.mul_(40)  # or every head would look at all alike
    whole, seen = (batch(0, 4, captions, skim=each) for each in (False, skim))
    shares = []
    for row, length in enumerate(seen.lengths.tolist()):
        fed = seen.at[row, seen.codes[row] != UNASKED][1:] - 1  # the places of tokens that are fed
        visible = torch.zeros(length + TOKENS - 1, dtype=torch.bool)
        visible[:length] = True
        visible[length + fed] = True
        attentions = alone(model, whole.ids[row, :length], whole.codes[row], visible).attentions
        for heads, attention in zip(spatial.SPATIAL, attentions, strict=True):
            for query in fed[:: spatial.STRIDE].tolist():
                images = attention[0, list(heads), length + query, length:]
                shares.append(images[:, : max(0, query - GRID)].sum(-1) / images.sum(-1))
    measured = forward(model, seen).outside
    torch.testing.assert_close(measured, torch.cat(shares).mean(), rtol=1e-3, atol=1e-4)
    assert 0.1 < measured < 0.9


def alone(
    model: JanusForConditionalGeneration, ids: torch.Tensor, codes: torch.Tensor, visible: torch.Tensor
) -> BaseModelOutputWithPast:
    """All hidden states and attention of one prompt and its whole picture, where only some tokens are seen by
    others."""
    text = model.model.language_model.embed_tokens(ids[None])
    image = model.prepare_embeddings_for_image_generation(codes[None, :-1])
    x = torch.cat([text, image], 1)
    mask = torch.ones(len(visible), len(visible)).tril().bool() & visible
    mask |= torch.eye(len(visible)).bool()  # so that no row of the softmax is empty
    eager = model.config.text_config._attn_implementation == "eager"
    seen = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf) if eager else mask
    return model.model.language_model(
        inputs_embeds=x,
        attention_mask=seen[None, None],
        use_cache=False,
        output_hidden_states=True,
        output_attentions=eager,
    )


def test_objects_begin_where_background_is_left_and_above() -> None:
    picture = np.zeros((1, GRID, GRID), np.int64)
    picture[0, 5:8, 5:8] = len(BACKGROUNDS)
    inside = np.zeros_like(picture, bool)
    inside[0, 5:9, 5:8] = inside[0, 5:8, 5:9] = True
    inside[0, 5, 5] = False
    assert (free(picture.reshape(1, -1)) == ~inside.reshape(1, -1)).all()
    assert 20 < places().sum() < 200


def of_codes(codes: torch.Tensor) -> Batch:
    """A whole batch of which the losses look at the codes alone."""
    nothing = torch.empty(0)
    at = torch.arange(TOKENS).expand(len(codes), -1)
    where = torch.from_numpy(free(codes.numpy()))
    return Batch(nothing, nothing, at, codes[:, :-1], codes, where, nothing, nothing, nothing)


def test_choices_are_the_background_and_the_codes_where_objects_begin() -> None:
    grounds, red, blue = len(BACKGROUNDS), len(BACKGROUNDS), len(BACKGROUNDS) + 1
    picture = torch.zeros(1, GRID, GRID, dtype=torch.int64)
    picture[0, 5:8, 5:8] = red
    picture[0, 15, 20] = blue
    logits = torch.randn(1, TOKENS, 12, generator=torch.Generator().manual_seed(0))
    objects = log_softmax(logits[0, :, grounds:], -1)
    begins = -(objects[5 * GRID + 5, 0] + objects[15 * GRID + 20, 1]) / 2
    background = -log_softmax(logits[0, 0], -1)[0]
    torch.testing.assert_close(choices_loss(logits, of_codes(picture.flatten(1))), begins + 0.1 * background)


def test_guidance_magnifies_what_twins_differ_in() -> None:
    seen = of_codes(torch.zeros(SIZE, TOKENS, dtype=torch.int64))
    seen.codes[:, -5:] = UNASKED
    logits = torch.zeros(SIZE, TOKENS, 2)
    logits[:TWINS, :, 0], logits[-TWINS:, :, 0] = 1.0, 0.5
    logits[TWINS:-TWINS] = 99.0  # rows without a twin
    logits[TWINS:-TWINS, :, 0] = -99.0
    logits[:TWINS, torch.from_numpy(places()), 0] = -99.0  # where an object may begin, which is not asked
    for guidance in (1.0, 4.0):
        guided = 0.5 + guidance * 0.5
        assert guided_loss(logits, seen, guidance).item() == pytest.approx(math.log1p(math.exp(-guided)))
