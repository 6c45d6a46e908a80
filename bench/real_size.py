"""Janus-Pro's real geometry with random weights: write such a checkpoint, load it, draw, and print what it took.

    python bench/real_size.py --folder /tmp/janus-1b --rows 1

The folder holds 4 GB in transformers' layout (two shards, bfloat16) and is kept for the next run. Pictures of random
weights mean nothing; that the files load, in what memory, and how fast a step is, does.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import JanusConfig, JanusForConditionalGeneration

import ssd_core
from ssd_core.models.checkpoint.files import find

UNNEEDED = ("model.vision_model.", "model.aligner.", "lm_head.")
CONFIG = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
        "vocab_size": 102400,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    },
    "vision_config": {"image_size": 384, "patch_size": 16, "hidden_size": 1024, "num_image_tokens": 576},
    "vq_config": {"num_patches": 24, "projection_dim": 2048, "image_token_embed_dim": 2048},
}


def write(folder: Path) -> None:
    """A Janus-Pro-1B of random weights, two shards, with the embedded model's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = JanusConfig(**CONFIG)
    with torch.device("meta"):
        shapes = {
            key: tensor.shape
            for key, tensor in JanusForConditionalGeneration(config).state_dict().items()
            if not key.startswith(UNNEEDED)
        }
    generator = torch.Generator().manual_seed(0)
    names = list(shapes)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in shards.items():
        weights = {}
        for key in keys:
            shape = shapes[key]
            spread = 0.02 if len(shape) < 2 else (2 / (shape[0] + shape[1])) ** 0.5
            drawn = torch.empty(shape, dtype=torch.bfloat16).normal_(0, spread, generator=generator)
            weights[key] = drawn + 1 if "norm" in key and key.endswith("weight") else drawn
        save_file(weights, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    for source in find("janus-shapes").glob("tokenizer*.json"):
        (folder / source.name).write_bytes(source.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1, help="rows of 24 tokens to draw before stopping")
    parser.add_argument("--method", choices=("full", "ssd"), default="ssd")
    parser.add_argument("--dtype", default="bf16")
    given = parser.parse_args()
    if not (given.folder / "config.json").exists():
        write(given.folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    model = ssd_core.load(given.folder, dtype=given.dtype)
    loaded = time.perf_counter() - begun
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    policy = ssd_core.SSD(0.2) if given.method == "ssd" else ssd_core.Full()
    result = ssd_core.generate(model, ["a red circle"], policy, on_row=lambda row, *_: row + 1 >= given.rows)
    drawn = int((result.tokens >= 0).sum())
    figures = {
        "load_seconds": round(loaded, 1),
        "host_peak_before_MB": before // 1024,
        "host_peak_after_load_MB": most // 1024,
        "tokens_drawn": drawn,
        "seconds_per_token": round(result.timing.decode / drawn, 3),
        "picture": list(result.images.shape),
        "memory": {key: value for key, value in result.memory.as_dict().items() if isinstance(value, int)},
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
