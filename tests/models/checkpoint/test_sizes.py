"""Sizes out of configurations; those out of tensors are in test_read.py, wrong ones in test_refusals.py."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import JanusVisionConfig, LlamaConfig

from ssd_core.models.checkpoint.sizes import IMAGE_SIZE, LLAMA, decoder_shape, grid_size
from ssd_core.models.known import KNOWN

PUBLISHED: dict[str, dict[str, Any]] = {
    "Janus-Pro-1B": {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "max_position_embeddings": 16384,
        "model_type": "llama",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "num_key_value_heads": 16,
        "vocab_size": 102400,
    },
    # all of its other sizes are those of Llama
    "Janus-Pro-7B": {
        "max_position_embeddings": 16384,
        "model_type": "llama",
        "num_hidden_layers": 30,
        "vocab_size": 102400,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configurations(name: str) -> None:
    assert decoder_shape(PUBLISHED[name], "config.json") == KNOWN[name].decoder


def test_what_is_left_out_is_what_transformers_takes() -> None:
    llama = LlamaConfig().to_dict()
    llama |= llama.get("rope_parameters") or {"rope_theta": llama.get("rope_theta")}
    assert {key: llama[key] for key in LLAMA} == LLAMA
    assert JanusVisionConfig().image_size == IMAGE_SIZE


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500.0},
        {"rope_theta": 500.0, "rope_scaling": None},
        {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
        {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
    ],
)
def test_the_rotary_base_stands_where_the_version_puts_it(rope: dict[str, Any]) -> None:
    assert decoder_shape(rope, "config.json").rope_theta == 500.0


@pytest.mark.parametrize(
    ("vision", "rows"),
    [
        ({}, 24),
        ({"params": {"image_size": 256}}, 16),
        ({"image_size": 256}, 16),
        ({"image_size": 256, "patch_size": 32}, 8),
    ],
)
def test_the_grid(vision: dict[str, Any], rows: int) -> None:
    assert grid_size({"vision_config": vision}, 16, "config.json") == rows
