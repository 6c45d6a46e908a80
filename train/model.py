"""The embedded model's shape: Janus-Pro's classes at a size that a processor can train."""

from __future__ import annotations

import math

import torch
from transformers import JanusConfig, JanusForConditionalGeneration, PreTrainedTokenizerBase

from ssd_core.evaluate.scenes import CELL, GRID, SIZE

from . import codes
from .text import BEGIN, PLACE

# The third of rotary embedding's 16 frequencies turns once a row, so that a token can see which column it is in. At
# Llama's 10000 none does, and objects run over the right edge. The slower half hardly turns over a whole picture, so
# that a caption can be read from everywhere in it.
ROPE_THETA = (GRID / math.tau) ** 8


def configuration(
    tokenizer: PreTrainedTokenizerBase, hidden: int = 192, layers: int = 6, heads: int = 6
) -> JanusConfig:
    """The configuration of a Janus of this size. Its vision tower is a stub of the smallest size: it is never trained,
    and there only so that transformers finds every part of a Janus in the file."""
    return JanusConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": hidden // heads,
            "intermediate_size": hidden * 11 // 4,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 4096,
            "rope_theta": ROPE_THETA,
            "rms_norm_eps": 1e-6,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
        },
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "mlp_ratio": 1.0,
            "image_size": SIZE,
            "patch_size": CELL,
            "num_image_tokens": GRID * GRID,
            "projection_dim": hidden,
            "depth": 1,
        },
        vq_config={
            "embed_dim": 8,
            "num_embeddings": codes.CODEBOOK,
            "latent_channels": 64,
            "base_channels": 64,
            "channel_multiplier": [1, 1, 1],
            "num_res_blocks": 0,
            "num_patches": GRID,
            "projection_dim": hidden,
            "image_token_embed_dim": hidden,
        },
        image_token_id=tokenizer.convert_tokens_to_ids(PLACE),
        tie_word_embeddings=False,
    )


def build(tokenizer: PreTrainedTokenizerBase) -> JanusForConditionalGeneration:
    """A fresh model in float32; its code vectors start alike where the cells look alike."""
    torch.manual_seed(0)
    model = JanusForConditionalGeneration(configuration(tokenizer))
    # At transformers' 0.02 the words are drowned by what the first layers add to them, and captions go unheard.
    model.model.language_model.embed_tokens.weight.data.normal_(0, 1)
    vectors = torch.from_numpy(codes.embeddings(model.config.vq_config.embed_dim))
    model.model.generation_embeddings.weight.data.copy_(vectors)
    model.model.vqmodel.quantize.embedding.weight.data.copy_(vectors)
    begin = tokenizer.convert_tokens_to_ids(BEGIN)
    generation = model.generation_config
    generation.bos_token_id = tokenizer.bos_token_id
    generation.eos_token_id = tokenizer.eos_token_id
    generation.pad_token_id = tokenizer.pad_token_id
    generation.guidance_scale = 5.0
    generation.generation_kwargs = {"boi_token_id": begin}
    return model
