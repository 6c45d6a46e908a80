"""Checkpoints for ComfyUI to read, made from the embedded model's."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ssd_core.models.checkpoint.files import find

HEAVY_WORDS = 500_000  # a vocabulary whose embeddings weigh what one sees in a process's memory
HEAVY_BYTES = HEAVY_WORDS * 192 * 4  # float32, as on the processor
MATRIX = re.compile(r"model\.language_model\.layers\..*_proj\.weight")


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


def write_quantized(folder: Path, kept: torch.dtype, old: bool = False) -> None:
    """The embedded model with its decoder's matrices in 8 bits: int8 with a scale a row, float8 with one a matrix; and
    as one says it today, or as it was said of "scaled fp8"."""
    shutil.copytree(find("janus-shapes"), folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    if old:
        tensors["scaled_fp8"] = torch.zeros(0, dtype=kept)
    for name in list(filter(MATRIX.fullmatch, tensors)):
        matrix, layer = tensors[name].float(), name.removesuffix(".weight")
        if kept == torch.int8:
            scale, about = matrix.abs().amax(1, keepdim=True) / 127, "int8_tensorwise"
            tensors[name] = (matrix / scale).round().to(kept)
        else:
            scale, about = matrix.abs().amax() / torch.finfo(kept).max, str(kept).removeprefix("torch.")
            tensors[name] = (matrix / scale).to(kept)
        if old:
            tensors[f"{layer}.scale_weight"] = scale.view(1)
        else:
            tensors[f"{layer}.weight_scale"] = scale
            tensors[f"{layer}.comfy_quant"] = torch.tensor(
                list(json.dumps({"format": about}).encode()), dtype=torch.uint8
            )
    save_file(tensors, weights, {"format": "pt"})
