"""Against DeepSeek's own code: official_loop.json is what it drew and decoded, run once by hand on a processor.

There a MultiModalityCausalLM of `config`, with a VQModel of two levels and 16 latent channels, took the weights of
tests/models/recipe.py under its own names. `tokens` are what its loop draws of `prompts` in float32, each the one of
the largest logit instead of one at random; `pixels` are what decode_code makes of them, and `codes` what encode makes
of a picture that comes from the recipe too. At no step were the two largest logits closer than 0.36.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd_core import generate, load
from ssd_core.models.janus import Janus
from tests.models.recipe import weight
from tests.models.small import hidden_states, write_folder

REFERENCE: dict[str, Any] = json.loads((Path(__file__).parent / "official_loop.json").read_text())
TOKENS = torch.tensor(REFERENCE["tokens"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Janus:
    """The reference's model, read from a checkpoint in its layout."""
    gain = REFERENCE["gain"]
    tensors = {
        name: torch.from_numpy(weight(name, shape, 1.0 if name.startswith("gen_vision_model.") else gain))
        for name, shape in REFERENCE["shapes"].items()
    }
    folder = tmp_path_factory.mktemp("official")
    write_folder(folder, REFERENCE["config"], tensors)
    return load(folder, "cpu", "fp32")


@torch.inference_mode()
def draw(model: Janus, ids: list[int]) -> Tensor:
    """The official loop, the whole sequence run anew at every step."""
    uncond = [ids[0], *[REFERENCE["pad"]] * (len(ids) - 2), ids[-1]]
    x = model.embed_text(torch.tensor([ids, uncond]))
    tokens: list[Tensor] = []
    for _ in range(model.geometry.tokens):
        with_prompt, without = model.image_logits(hidden_states(model, x)[:, -1])
        tokens.append((without + REFERENCE["guidance"] * (with_prompt - without)).argmax())
        x = torch.cat([x, model.embed_image(tokens[-1]).expand(2, 1, -1)], 1)
    return torch.stack(tokens)


@pytest.mark.parametrize("prompt", range(len(TOKENS)))
def test_a_plain_loop_draws_its_tokens(model: Janus, prompt: int) -> None:
    assert draw(model, REFERENCE["prompts"][prompt]).tolist() == TOKENS[prompt].tolist()


def test_generate_draws_its_tokens(model: Janus) -> None:
    """Both prompts at once, though they differ in length."""
    assert model.unconditional(REFERENCE["prompts"][0])[1] == REFERENCE["pad"]
    drawn = generate(model, REFERENCE["prompts"], guidance=REFERENCE["guidance"], greedy=True)
    assert drawn.tokens.tolist() == TOKENS.tolist()


@torch.inference_mode()
def test_its_pictures(model: Janus) -> None:
    pixels = torch.tensor(REFERENCE["pixels"]).view(len(TOKENS), 10, 10, 3)
    expected = ((pixels + 1) / 2).clip(0, 1)
    assert expected.std() > 0.1
    torch.testing.assert_close(model.decode_image(TOKENS), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_its_codes_of_a_picture(model: Janus) -> None:
    picture = torch.from_numpy(weight("picture", (1, 3, 10, 10)))
    picture = (picture / picture.abs().max() + 1) / 2
    assert model.encode_image(picture.permute(0, 2, 3, 1)).flatten().tolist() == REFERENCE["codes"]
