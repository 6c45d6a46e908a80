"""Names against those of the real thing: official_names.json holds the names and shapes of the state_dict of DeepSeek's
own MultiModalityCausalLM at the sizes of Janus-Pro-1B, with 2 of its 24 layers and one of its vision tower's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ssd_core import UserError
from ssd_core.models.checkpoint.names import NAMINGS, naming_of, official, pieces
from ssd_core.models.codec import build_codec
from ssd_core.models.janus import Janus
from ssd_core.models.known import KNOWN, NoTokenizer

REFERENCE = json.loads((Path(__file__).parent / "official_names.json").read_text())
OFFICIAL, TRANSFORMERS = NAMINGS


def test_official_names_and_shapes_are_those_of_deepseek() -> None:
    known = KNOWN["Janus-Pro-1B"]
    shape = replace(known, decoder=replace(known.decoder, layers=2))
    model = Janus("janus", shape, NoTokenizer(), build_codec(shape.vq), device="meta")
    found = {official(piece.name): list(piece.shape) for piece in pieces(model.state_dict(), shape.decoder)}
    assert found == {name: own for name, own in REFERENCE.items() if not OFFICIAL.is_unneeded(name)}


def test_unneeded_are_the_understanding_half_and_the_statistics() -> None:
    unneeded = [name for name in REFERENCE if OFFICIAL.is_unneeded(name)]
    drawing = [name for name in unneeded if not name.startswith(("vision_model.", "aligner."))]
    assert drawing == ["gen_vision_model.quantize.codebook_used", "language_model.lm_head.weight"]
    assert {name.split(".")[0] for name in unneeded} >= {"vision_model", "aligner"}
    assert TRANSFORMERS.is_unneeded("model.language_model.layers.0.self_attn.rotary_emb.inv_freq")


def test_the_third_layer_of_an_aligner() -> None:
    """Nothing published has one; in DeepSeek's nn.Sequential the activations lie between."""
    assert official("model.generation_aligner.hidden_layers.1.bias") == "gen_aligner.layers.4.bias"


def test_the_naming_is_told_by_the_decoder() -> None:
    assert naming_of(REFERENCE, "x") is OFFICIAL
    assert naming_of(["lm_head.weight", "model.language_model.norm.weight"], "x") is TRANSFORMERS
    with pytest.raises(UserError, match=r"^x holds no decoder of a Janus.*its first tensor is encoder\.block\.0"):
        naming_of(["encoder.block.0.layer.0.SelfAttention.k.weight"], "x")
