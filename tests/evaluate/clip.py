"""A CLIP model of random weights, a few thousand of them, that reads letters one by one."""

from __future__ import annotations

import json
from pathlib import Path
from string import ascii_lowercase

import torch
from transformers import CLIPConfig, CLIPModel

from ssd_core.evaluate.clip import image_processor

LIMIT = 20  # tokens


def save_clip(folder: Path) -> Path:
    """Write the model as transformers' folders are."""
    folder.mkdir()
    letters = [letter + end for end in ("", "</w>") for letter in ascii_lowercase]
    vocabulary = {token: place for place, token in enumerate([*letters, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    about = {"tokenizer_class": "CLIPTokenizer", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = {"vocab_size": len(vocabulary), "max_position_embeddings": LIMIT, "eos_token_id": len(vocabulary) - 1}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**sizes, **text, "bos_token_id": len(vocabulary) - 2, "initializer_factor": 30.0},
        vision_config={**sizes, "image_size": 16, "patch_size": 4, "initializer_factor": 30.0},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    image_processor()(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder
