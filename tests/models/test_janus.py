"""Our Janus computes what transformers' computes, at every size."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from ssd_core import UserError, load
from ssd_core.models.janus import Janus
from tests.models.small import SIZES, hidden_states, save_transformers, transformers_janus

Pair = tuple[Janus, Any]


@pytest.fixture(scope="module", params=SIZES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Ours, read from what transformers' own has written."""
    size = SIZES[request.param]
    folder = save_transformers(tmp_path_factory.mktemp("janus"), size)
    return load(folder, "cpu"), transformers_janus(size)


def random_tokens(model: Janus, pictures: int = 2) -> torch.Tensor:
    geometry = model.geometry
    return torch.randint(geometry.codebook, (pictures, geometry.tokens), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_hidden_states_and_image_logits(pair: Pair) -> None:
    ours, theirs = pair
    ids = torch.tensor([ours.encode("a red circle"), ours.encode("a blue circle")])
    tokens = random_tokens(ours)
    x = torch.cat([ours.embed_text(ids), ours.embed_image(tokens.flatten()).view(2, ours.geometry.tokens, -1)], 1)
    own_x = torch.cat(
        [theirs.get_input_embeddings()(ids), theirs.prepare_embeddings_for_image_generation(tokens)],
        1,
    )
    torch.testing.assert_close(x, own_x, atol=1e-5, rtol=0)
    own = theirs.model.language_model(inputs_embeds=own_x, attention_mask=torch.ones(own_x.shape[:2])).last_hidden_state
    hidden = hidden_states(ours, x)
    assert hidden.std() > 0.1, "nothing is compared if all is near zero"
    torch.testing.assert_close(hidden, own, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours.image_logits(hidden[:, -1]), theirs.model.generation_head(own[:, -1]), atol=1e-5, rtol=0
    )


@torch.inference_mode()
def test_pictures(pair: Pair) -> None:
    ours, theirs = pair
    tokens = random_tokens(ours)
    own = ((theirs.decode_image_tokens(tokens) + 1) / 2).clip(0, 1)
    pictures = ours.decode_image(tokens)
    assert pictures.std() > 0.1
    torch.testing.assert_close(pictures, own, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_encoding_agrees_where_codes_have_unit_length(pair: Pair) -> None:
    """transformers looks for the code at the least distance; DeepSeek, and we, for that of the nearest direction."""
    ours, theirs = pair
    codec = deepcopy(theirs.model.vqmodel)
    codec.quantize.embedding.weight.data = normalize(codec.quantize.embedding.weight.data, dim=-1)
    height = codec.decode(random_tokens(ours)).shape[-1]
    pixels = torch.rand((2, 3, height, height), generator=torch.Generator().manual_seed(0))
    tokens = ours.encode_image(pixels.permute(0, 2, 3, 1))
    assert len(tokens.unique()) > 3
    _, _, own = codec.quantize(codec.quant_conv(codec.encoder(pixels * 2 - 1)))  # encode() gives them by version
    assert torch.equal(tokens.flatten(), own)


def test_a_picture_of_another_size_is_refused(pair: Pair) -> None:
    ours, _ = pair
    with pytest.raises(UserError, match="resize it first"):
        ours.encode_image(torch.zeros(1, 7, 9, 3))
