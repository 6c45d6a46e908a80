"""The sizes of a Janus: its decoder's from the configuration, all others from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UserError
from ..decoder import DecoderShape
from ..janus import JanusShape
from .tensors import Tensors

LLAMA = {  # what transformers' LlamaConfig takes for what a configuration leaves out
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
}
IMAGE_SIZE = 384  # likewise, of Janus' vision tower
MOST = 64  # levels, blocks or layers that are looked for


def check_family(config: Mapping[str, Any], source: str) -> None:
    """Refuse the configuration of anything but a Janus in floating point."""
    if "vision_gen_enc_config" in config:  # its model_type is that of Janus
        raise UserError(
            f"{source} describes a JanusFlow, another kind of model that is not supported; take a Janus-Pro."
        )
    family = config.get("model_type")
    if family not in ("janus", "multi_modality"):
        raise UserError(f"{source} describes a model of type {family!r}, not a Janus; take a Janus-Pro.")
    if config.get("quantization_config"):
        raise UserError(f"{source} describes a quantized copy, which is not read; take the original weights.")


def janus_shape(config: Mapping[str, Any], tensors: Tensors, source: str) -> JanusShape:
    """All sizes of a Janus; `source` is what errors call its configuration."""
    text = section(config, "language_config", source) or section(config, "text_config", source)
    vq = vq_sizes(tensors)
    grid = grid_size(config, 2 ** (len(vq["channel_multiplier"]) - 1), source)
    image_hidden, _ = tensors.shape("model.generation_head.proj_out.weight", 2)
    hidden_layers = count(
        tensors, *(f"model.generation_aligner.hidden_layers.{{}}.{kind}" for kind in ("weight", "bias"))
    )
    return JanusShape(
        decoder=decoder_shape(text, source),
        vocabulary=whole({**LLAMA, **text}, "vocab_size", source),
        rows=grid,
        columns=grid,
        codebook=vq["num_embeddings"],
        code_dim=vq["embed_dim"],
        aligner_depth=1 + hidden_layers,
        image_hidden=image_hidden,
        vq=vq | {"num_patches": grid},
    )


def decoder_shape(text: Mapping[str, Any], source: str) -> DecoderShape:
    """Sizes of the decoder; refuses a configuration that asks for what this project's decoder does not compute."""
    # transformers 5 gathers in rope_parameters what older versions keep in rope_theta and rope_scaling
    rope = section(text, "rope_parameters", source) or section(text, "rope_scaling", source)
    for what, found, known in (
        ("language model", text.get("model_type", "llama"), "llama"),
        ("activation", text.get("hidden_act", "silu"), "silu"),
        ("rotary embedding", rope.get("rope_type", rope.get("type", "default")), "default"),
    ):
        if found != known:
            raise UserError(f"{source} asks for the {what} {found!r}, but only {known!r}, that of Janus, is supported.")
    sizes = {**LLAMA, **text, **rope}
    hidden, heads = (whole(sizes, key, source) for key in ("hidden_size", "num_attention_heads"))
    sizes["num_key_value_heads"] = sizes.get("num_key_value_heads") or heads
    sizes["head_dim"] = sizes.get("head_dim") or hidden // heads
    return DecoderShape(
        layers=whole(sizes, "num_hidden_layers", source),
        hidden=hidden,
        heads=heads,
        kv_heads=whole(sizes, "num_key_value_heads", source),
        head_dim=whole(sizes, "head_dim", source),
        inner=whole(sizes, "intermediate_size", source),
        norm_eps=real(sizes, "rms_norm_eps", source),
        rope_theta=real(sizes, "rope_theta", source),
    )


def vq_sizes(tensors: Tensors) -> dict[str, Any]:
    """Keyword arguments of transformers' JanusVQVAEConfig."""
    codebook, code_dim = tensors.shape("model.generation_embeddings.weight", 2)
    _, latent, *_ = tensors.shape("model.vqmodel.decoder.conv_in.weight", 4)
    base, *_ = tensors.shape("model.vqmodel.encoder.conv_in.weight", 4)
    up = "model.vqmodel.decoder.up"
    levels = count(tensors, up + ".{}.block.0.conv1.weight", up + ".{}.block.0.conv2.weight")
    blocks = count(tensors, up + ".0.block.{}.conv1.weight", up + ".0.block.{}.conv2.weight")
    widths = [tensors.shape(f"{up}.{level}.block.0.conv1.weight", 4)[0] for level in range(max(levels, 1))]
    return {
        "embed_dim": code_dim,
        "num_embeddings": codebook,
        "latent_channels": latent,
        "base_channels": base,
        "channel_multiplier": [width // base for width in reversed(widths)],
        "num_res_blocks": blocks - 1,
    }


def grid_size(config: Mapping[str, Any], pixels_a_token: int, source: str) -> int:
    """Rows, and columns, of a picture's tokens."""
    vision = section(config, "vision_config", source)
    pixels = whole({"image_size": IMAGE_SIZE, **vision, **section(vision, "params", source)}, "image_size", source)
    patch = whole({"patch_size": pixels_a_token, **vision}, "patch_size", source)
    if pixels % patch:
        raise UserError(
            f"{source} gives image_size as {pixels}, which is no multiple of the {patch} pixels of a token; "
            "its weights and its config.json do not belong together."
        )
    return pixels // patch


def count(tensors: Tensors, *templates: str) -> int:
    """One more than the largest number at which one of these names exists; so that one absent tensor is missed as such,
    and not taken for the end of a smaller model."""
    return max((at + 1 for at in range(MOST) for name in templates if name.format(at) in tensors), default=0)


def section(config: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    """A part of a configuration; empty where it is left out."""
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise UserError(f"{source} gives {key} as {value!r}, where a table is expected.")
    return value


def whole(sizes: Mapping[str, Any], key: str, source: str) -> int:
    """A size out of a configuration."""
    value = sizes.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"{source} gives {key} as {value!r}, where a positive whole number is expected.")
    return value


def real(sizes: Mapping[str, Any], key: str, source: str) -> float:
    """A positive number out of a configuration."""
    value = sizes.get(key)
    if not isinstance(value, (int, float)) or value <= 0:
        raise UserError(f"{source} gives {key} as {value!r}, where a positive number is expected.")
    return float(value)
