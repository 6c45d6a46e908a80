"""A checkpoint of random weights, for what depends on sizes alone: speed and memory.

    python -m bench.random_weights --size 1B --folder /tmp/janus-1b
    python -m bench.random_weights --size shapes --grid 48 --folder /tmp/shapes-48

In transformers' layout, bfloat16, with the embedded model's tokenizer. 1B and 7B are Janus-Pro's sizes, 4 and 14 GB.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import JanusConfig, JanusForConditionalGeneration

from ssd_core.models.checkpoint.files import find

UNNEEDED = ("model.vision_model.", "model.aligner.", "lm_head.")
SHARD = 2 * 2**30  # bytes of a file, so that no more is held at once
JANUS_PRO = {
    "1B": {"hidden": 2048, "layers": 24, "heads": 16, "intermediate": 5632},
    "7B": {"hidden": 4096, "layers": 30, "heads": 32, "intermediate": 11008},
}
SIZES = (*JANUS_PRO, "shapes")


def config_of(size: str, grid: int) -> JanusConfig:
    """The sizes of a model that draws grid x grid tokens."""
    if size in JANUS_PRO:
        own = JANUS_PRO[size]
        config: dict[str, Any] = {
            "text_config": {
                "model_type": "llama",
                "hidden_size": own["hidden"],
                "num_hidden_layers": own["layers"],
                "num_attention_heads": own["heads"],
                "num_key_value_heads": own["heads"],
                "intermediate_size": own["intermediate"],
                "vocab_size": 102400,
                "max_position_embeddings": 16384,
                "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0,
            },
            "vision_config": {"patch_size": 16, "hidden_size": 1024},
            "vq_config": {"projection_dim": own["hidden"], "image_token_embed_dim": own["hidden"]},
        }
    else:
        config = json.loads((find("janus-shapes") / "config.json").read_text(encoding="utf-8"))
    patch = config["vision_config"]["patch_size"]
    config["vision_config"] |= {"image_size": patch * grid, "num_image_tokens": grid**2}
    config["vq_config"]["num_patches"] = grid
    return JanusConfig(**config)


def write(folder: Path, size: str = "1B", grid: int = 24, shard: int = SHARD) -> None:
    """Write the folder, one file after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(size, grid)
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in JanusForConditionalGeneration(config).state_dict().items()
            if not key.startswith(UNNEEDED)
        }
    generator = torch.Generator().manual_seed(0)
    shards = parts(shapes, shard)
    index: dict[str, str] = {}
    for number, keys in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weights = {}
        for key in keys:
            shape = shapes[key]
            spread = 0.02 if len(shape) < 2 else (2 / (shape[0] + shape[1])) ** 0.5
            drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0, spread, generator=generator)
            weights[key] = drawn + 1 if "norm" in key and key.endswith("weight") else drawn
        save_file(weights, folder / file, {"format": "pt"})
        index |= dict.fromkeys(keys, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config.save_pretrained(folder)
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((find("janus-shapes") / name).read_bytes())


def parts(shapes: dict[str, torch.Size], most: int) -> Sequence[Sequence[str]]:
    """The tensors' names in groups of no more than so many bytes, if a tensor has not more by itself."""
    found: list[list[str]] = [[]]
    held = 0
    for key, shape in shapes.items():
        held += 2 * prod(shape)
        if held > most and found[-1]:
            found.append([])
            held = 2 * prod(shape)
        found[-1].append(key)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.random_weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="1B")
    parser.add_argument("--grid", type=int, default=24, help="image tokens along each side of a picture")
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    write(given.folder, given.size, given.grid)


if __name__ == "__main__":
    main()
