"""What the layouts call a Janus' tensors. transformers' names are the common ones; all others are made from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...errors import UserError
from ..decoder import DecoderShape

# our module -> transformers'; where there are several, ours holds their rows one below the other
MODULES = {
    "text": ("model.language_model.embed_tokens",),
    "decoder.layers.N.attention_norm": ("model.language_model.layers.N.input_layernorm",),
    "decoder.layers.N.qkv": tuple(f"model.language_model.layers.N.self_attn.{which}_proj" for which in "qkv"),
    "decoder.layers.N.out": ("model.language_model.layers.N.self_attn.o_proj",),
    "decoder.layers.N.mlp_norm": ("model.language_model.layers.N.post_attention_layernorm",),
    "decoder.layers.N.gate_up": tuple(f"model.language_model.layers.N.mlp.{which}_proj" for which in ("gate", "up")),
    "decoder.layers.N.down": ("model.language_model.layers.N.mlp.down_proj",),
    "decoder.norm": ("model.language_model.norm",),
    "codes": ("model.generation_embeddings",),
    "head.inner": ("model.generation_head.proj_out",),
    "head.logits": ("model.generation_head.vision_head",),
}

# transformers' name -> the name in DeepSeek's own code, each rule applied to what the one before it left
OFFICIAL = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.generation_embeddings\.", "gen_embed."),
    (r"^model\.generation_aligner\.fc1\.", "gen_aligner.layers.0."),
    (r"^model\.generation_aligner\.", "gen_aligner."),
    (r"^model\.generation_head\.proj_out\.", "gen_head.output_mlp_projector."),
    (r"^model\.generation_head\.", "gen_head."),
    (r"^model\.vqmodel\.", "gen_vision_model."),
    (r"\.encoder\.down\.", ".encoder.conv_blocks."),
    (r"\.decoder\.up\.", ".decoder.conv_blocks."),
    (r"\.block\.", ".res."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attn_1\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
)


def official(name: str) -> str:
    """The official name of what transformers calls `name`."""
    for pattern, replacement in OFFICIAL:
        name = re.sub(pattern, replacement, name)
    # the official aligner counts its activations as layers
    return re.sub(r"\.hidden_layers\.(\d+)\.", lambda found: f".layers.{2 * int(found[1]) + 2}.", name)


@dataclass(frozen=True)
class Naming:
    """A layout's names.

    decoder: what the names of the decoder's tensors start with.
    unneeded: what the names of the tensors start with that drawing does without.
    on_disk: transformers' name -> this layout's.
    """

    layout: str
    decoder: str
    unneeded: tuple[str, ...]
    on_disk: Callable[[str], str]

    def is_unneeded(self, name: str) -> bool:
        """Whether drawing does without the tensor that this layout calls `name`."""
        return name.startswith(self.unneeded) or STATISTICS.fullmatch(name) is not None


NAMINGS = (
    Naming("official", "language_model.model.", ("language_model.lm_head.", "vision_model.", "aligner."), official),
    Naming("transformers", "model.language_model.", ("lm_head.", "model.vision_model.", "model.aligner."), str),
)
# what official checkpoints count beside their codes, and what old versions of transformers stored with rotary layers
STATISTICS = re.compile(r"gen_vision_model\.quantize\.codebook_used|.*\.rotary_emb\.inv_freq")


def naming_of(names: Iterable[str], source: str) -> Naming:
    """The naming that a checkpoint's names follow; `source` is what errors call the checkpoint."""
    names = list(names)
    for naming in NAMINGS:
        if any(name.startswith(naming.decoder) for name in names):
            return naming
    example = f"; its first tensor is {names[0]}" if names else ""
    raise UserError(f"{source} holds no decoder of a Janus, so it is another model's, or a part of one{example}.")


@dataclass(frozen=True)
class Piece:
    """A tensor, by transformers' name, and the place it fills: rows from `start` on of our `parameter`."""

    name: str
    parameter: str
    start: int
    shape: tuple[int, ...]


def pieces(parameters: Mapping[str, Tensor], shape: DecoderShape) -> list[Piece]:
    """The tensors that fill these parameters of a Janus."""
    found = []
    for parameter, tensor in parameters.items():
        start = 0
        for name in sources(parameter):
            rows = rows_of(name, shape) or len(tensor)
            found.append(Piece(name, parameter, start, (rows, *tensor.shape[1:])))
            start += rows
    return found


def sources(parameter: str) -> list[str]:
    """transformers' names of what one of our parameters is made of."""
    module, kind = parameter.rsplit(".", 1)
    if module.startswith("codec."):
        return [f"model.vqmodel.{parameter.removeprefix('codec.')}"]
    number = re.search(r"\.layers\.(\d+)", module)
    if number and module.startswith("aligner."):
        place = f"hidden_layers.{int(number[1]) - 1}" if int(number[1]) else "fc1"
        return [f"model.generation_aligner.{place}.{kind}"]
    if number:
        ours = module.replace(number[0], ".layers.N")
        return [f"{theirs}.{kind}".replace(".layers.N", number[0]) for theirs in MODULES[ours]]
    return [f"{theirs}.{kind}" for theirs in MODULES[module]]


def rows_of(name: str, shape: DecoderShape) -> int | None:
    """Rows of a tensor that is stored beside others in one of our parameters; None for any other tensor."""
    sizes = {
        "q_proj": shape.heads * shape.head_dim,
        "k_proj": shape.kv_heads * shape.head_dim,
        "v_proj": shape.kv_heads * shape.head_dim,
        "gate_proj": shape.inner,
        "up_proj": shape.inner,
    }
    return sizes.get(name.split(".")[-2])
