"""Checkpoints for ComfyUI to read, made from the embedded model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ssd_core.models.checkpoint.files import find

HEAVY_WORDS = 500_000  # a vocabulary whose embeddings weigh what one sees in a process's memory
HEAVY_BYTES = HEAVY_WORDS * 192 * 4  # float32, as on the processor


def write_broken(folder: Path) -> None:
    """A folder whose weights end in the middle, as those of a download that stopped."""
    shutil.copytree(find("janus-shapes"), folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def write_heavy(folder: Path) -> None:
    """A model that draws as the embedded one and takes HEAVY_BYTES more memory."""
    shutil.copytree(find("janus-shapes"), folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors = load_file(weights)
    [name] = [name for name in tensors if name.endswith("embed_tokens.weight")]
    words, width = tensors[name].shape
    more = torch.zeros(HEAVY_WORDS - words, width, dtype=tensors[name].dtype)
    save_file(tensors | {name: torch.cat([tensors[name], more])}, weights, {"format": "pt"})
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["text_config"]["vocab_size"] = HEAVY_WORDS
    config.write_text(json.dumps(settings), encoding="utf-8")
