"""Small Januses with random weights, as transformers builds them, in every layout that checkpoints come in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast

from ssd_core.cache.cache import PromptCache
from ssd_core.models.checkpoint import save_single_file
from ssd_core.models.checkpoint.names import official
from ssd_core.models.janus import Janus
from tests.models.recipe import weight
from train import text


@dataclass(frozen=True)
class Size:
    """What the small Januses differ in."""

    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 8
    grid: int = 4
    aligner: int = 2
    channels: tuple[int, ...] = (1, 2)
    blocks: int = 1

    @property
    def pixels(self) -> int:
        """Height and width of the pictures."""
        return self.grid * 2 ** (len(self.channels) - 1)


SIZES = {
    "plain": Size(),
    "grouped queries": Size(kv_heads=2),
    "heads narrower than the stream": Size(head_dim=6, grid=3),
    "deep": Size(heads=2, kv_heads=1, head_dim=20, grid=5, aligner=3, channels=(1, 1, 2), blocks=0),
}
UNNEEDED = {  # of the official layout; transformers writes its own
    "language_model.lm_head.weight": (384, 32),
    "vision_model.vision_tower.blocks.0.attn.qkv.weight": (48, 16),
    "aligner.layers.0.weight": (32, 16),
    "gen_vision_model.quantize.codebook_used": (48,),
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return text.build()


@cache
def transformers_janus(size: Size = SIZES["plain"]) -> Any:
    """transformers' own model in float32, which is shared between tests and so not to be changed."""
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config={
                "model_type": "llama",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": size.heads,
                "num_key_value_heads": size.kv_heads,
                "head_dim": size.head_dim,
                "intermediate_size": 40,
                "vocab_size": 384,
                "rms_norm_eps": 1e-5,
                "rope_theta": 500.0,
                "tie_word_embeddings": False,
            },
            vision_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "mlp_ratio": 1.0,
                "image_size": size.pixels,
                "patch_size": size.pixels // size.grid,
                "num_image_tokens": size.grid**2,
                "projection_dim": 32,
                "depth": 1,
            },
            vq_config={
                "embed_dim": 8,
                "num_embeddings": 48,
                "latent_channels": 16,
                "base_channels": 32,
                "channel_multiplier": list(size.channels),
                "num_res_blocks": size.blocks,
                "projection_dim": 32,
                "num_hidden_layers": size.aligner,
                "image_token_embed_dim": 32,
            },
            tie_word_embeddings=False,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, parameter.shape)))
    return model.eval()


def save_transformers(folder: Path, size: Size = SIZES["plain"], shard: str = "5GB") -> Path:
    """transformers' layout."""
    transformers_janus(size).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    return folder


def save_official(folder: Path, size: Size = SIZES["plain"], shards: int = 1, kind: str = "bin") -> Path:
    """DeepSeek's layout, in pickles as they publish it or in safetensors (`kind`) as others do."""
    model = transformers_janus(size)
    tensors = {name: torch.ones(shape) for name, shape in UNNEEDED.items()}
    for name, tensor in model.state_dict().items():
        if not name.startswith(("lm_head.", "model.vision_model.", "model.aligner.")):
            tensors[official(name)] = tensor
    llama = model.config.text_config
    config = {
        "model_type": "multi_modality",
        "language_config": {
            "model_type": "llama",
            "hidden_size": llama.hidden_size,
            "intermediate_size": llama.intermediate_size,
            "num_hidden_layers": llama.num_hidden_layers,
            "num_attention_heads": llama.num_attention_heads,
            "num_key_value_heads": llama.num_key_value_heads,
            "head_dim": llama.head_dim,
            "vocab_size": llama.vocab_size,
            "rms_norm_eps": llama.rms_norm_eps,
            "rope_theta": 500.0,
        },
        "vision_config": {"cls": "CLIPVisionTower", "params": {"image_size": size.pixels}},
    }
    write_folder(folder, config, tensors, shards, kind)
    return folder


def write_folder(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], shards: int = 1, kind: str = "bin"
) -> None:
    """A checkpoint's folder with this content, its tensors in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    stem = {"bin": "pytorch_model", "safetensors": "model"}[kind]
    save: Any = {"bin": torch.save, "safetensors": save_file}[kind]
    names = sorted(tensors)
    files = {
        f"{stem}-{shard + 1:05}-of-{shards:05}.{kind}" if shards > 1 else f"{stem}.{kind}": names[shard::shards]
        for shard in range(shards)
    }
    for file, own in files.items():
        save({name: tensors[name] for name in own}, folder / file)
    if shards > 1:
        table = {name: file for file, own in files.items() for name in own}
        (folder / f"{stem}.{kind}.index.json").write_text(json.dumps({"weight_map": table}))


def save_layout(layout: str, folder: Path, size: Size = SIZES["plain"]) -> Path:
    """A checkpoint in one of LAYOUTS; returns what to load."""
    match layout:
        case "transformers":
            return save_transformers(folder, size)
        case "transformers, sharded":
            return save_transformers(folder, size, shard="100KB")
        case "official":
            return save_official(folder, size)
        case "official, sharded":
            return save_official(folder, size, shards=3)
        case "official names in safetensors":
            return save_official(folder, size, shards=2, kind="safetensors")
        case _:
            origin = save_official(folder, size) if "official" in layout else save_transformers(folder, size)
            file = folder.with_suffix(".safetensors")
            save_single_file(origin, file)
            return file


LAYOUTS = (
    "transformers",
    "transformers, sharded",
    "official",
    "official, sharded",
    "official names in safetensors",
    "single file",
    "single file of official",
)


@torch.inference_mode()
def hidden_states(model: Janus, x: Tensor) -> Tensor:
    """x [B, T, hidden], the whole sequence -> the decoder's output [B, T, hidden]."""
    positions = torch.arange(x.shape[1], device=model.device).expand(len(x), -1)
    model.decoder.rope.reserve(x.shape[1], model.device, model.dtype)
    return model.decoder(x, positions, PromptCache(model.geometry.kv_heads))
