"""The published sizes of Janus-Pro, for planning without a checkpoint."""

from __future__ import annotations

import torch

from ..errors import UserError
from .codec import build_codec
from .decoder import DecoderShape
from .janus import Janus, JanusShape


def janus_pro(layers: int, hidden: int, heads: int, inner: int) -> JanusShape:
    """The sizes of a Janus-Pro (arXiv 2501.17811 and its published configurations)."""
    return JanusShape(
        decoder=DecoderShape(layers, hidden, heads, heads, hidden // heads, inner, norm_eps=1e-6, rope_theta=10000.0),
        vocabulary=102400,
        rows=24,
        columns=24,
        codebook=16384,
        code_dim=8,
        aligner_depth=2,
        image_hidden=hidden,
        vq={"embed_dim": 8, "num_embeddings": 16384, "channel_multiplier": [1, 1, 2, 2, 4]},
    )


KNOWN = {
    "Janus-Pro-1B": janus_pro(layers=24, hidden=2048, heads=16, inner=5632),
    "Janus-Pro-7B": janus_pro(layers=30, hidden=4096, heads=32, inner=11008),
}


class NoTokenizer:
    """Stands where a tokenizer would, for a model that draws nothing."""

    pad = 0

    def encode(self, prompt: str) -> list[int]:
        raise UserError("Only the sizes of this model are known; to draw, load its checkpoint.")


def known(name: str, dtype: torch.dtype, codec_dtype: torch.dtype) -> Janus:
    """A published model without weights, on the meta device; its name must be in KNOWN."""
    shape = KNOWN[name]
    codec = build_codec(shape.vq).to(codec_dtype)
    return Janus(name, shape, NoTokenizer(), codec, device="meta", dtype=dtype)
