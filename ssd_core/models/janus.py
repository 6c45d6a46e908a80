"""Janus and Janus-Pro (arXiv 2501.17811): a Llama that draws 24 x 24 codes of a VQ model, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ..errors import UserError
from .base import Geometry, ImageModel
from .codec import build_codec
from .decoder import Decoder, DecoderShape
from .placement import choose_ops
from .small import SMALL, copy_kept, shrink


@dataclass(frozen=True)
class JanusShape:
    """Sizes of a Janus: its decoder's, its vocabulary, its grid, and the picture codec's configuration.

    `vq` holds the keyword arguments of transformers' JanusVQVAEConfig.
    """

    decoder: DecoderShape
    vocabulary: int
    rows: int
    columns: int
    codebook: int
    code_dim: int
    aligner_depth: int
    image_hidden: int
    vq: dict[str, Any]

    @property
    def geometry(self) -> Geometry:
        d = self.decoder
        return Geometry(d.layers, d.heads, d.kv_heads, d.head_dim, self.rows, self.columns, self.codebook)


class PromptEncoder(Protocol):
    """What Janus needs of its tokenizer."""

    def encode(self, prompt: str) -> list[int]:
        """Ids in the chat template, from begin-of-sentence to begin-of-image."""
        ...

    @property
    def pad(self) -> int: ...


class Aligner(nn.Module):
    """The MLP that turns a code vector into a decoder input."""

    def __init__(self, code_dim: int, hidden: int, depth: int, ops: Any, **where: Any) -> None:
        super().__init__()
        sizes = [code_dim] + [hidden] * (depth - 1)
        self.layers = nn.ModuleList(ops.Linear(size, hidden, **where) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        for layer in self.layers[1:]:
            x = layer(gelu(x))
        return x


class ImageHead(nn.Module):
    """The head that names the next image token."""

    def __init__(self, hidden: int, image_hidden: int, codebook: int, ops: Any, **where: Any) -> None:
        super().__init__()
        self.inner = ops.Linear(hidden, image_hidden, **where)
        self.logits = ops.Linear(image_hidden, codebook, **where)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(gelu(self.inner(x)))


class Janus(ImageModel):
    """A Janus that draws; its understanding half (vision tower, lm_head) is never built.

    `codec` is transformers' JanusVQVAE. The token embeddings are torch's whatever `ops` is: they may stay on the
    processor while the rest is on a device, as they are read once a prompt.
    """

    def __init__(
        self, name: str, shape: JanusShape, tokenizer: PromptEncoder, codec: Any, ops: Any = nn, **where: Any
    ) -> None:
        super().__init__()
        self.name, self.shape, self.tokenizer = name, shape, tokenizer
        self.geometry, self.vocabulary = shape.geometry, shape.vocabulary
        self.text_on_cpu = True  # whether the token embeddings stay off the device
        hidden = shape.decoder.hidden
        self.decoder = Decoder(shape.decoder, ops, **where)
        self.text = nn.Embedding(shape.vocabulary, hidden, **where)
        self.codes = ops.Embedding(shape.codebook, shape.code_dim, **where)
        self.aligner = Aligner(shape.code_dim, hidden, shape.aligner_depth, ops, **where)
        self.head = ImageHead(hidden, shape.image_hidden, shape.codebook, ops, **where)
        self.codec: Any = codec

    def step_parts(self) -> Sequence[nn.Module]:
        return [self.decoder, self.head, self.codes, self.aligner]

    @property
    def host_parts(self) -> Sequence[nn.Module]:
        return [self.text] if self.text_on_cpu and self.device.type != "cpu" else []

    @property
    def picture_size(self) -> tuple[int, int]:
        scale = 2 ** (len(self.shape.vq["channel_multiplier"]) - 1)
        return self.shape.rows * scale, self.shape.columns * scale

    def encode(self, prompt: str) -> list[int]:
        return self.tokenizer.encode(prompt)

    def unconditional(self, ids: Sequence[int]) -> list[int]:
        """Pads between the first and the last id. They are attended, as the official loop does."""
        return [ids[0], *[self.tokenizer.pad] * (len(ids) - 2), ids[-1]]

    def embed_text(self, ids: Tensor) -> Tensor:
        return self.text(ids.to(self.text.weight.device)).to(self.device, self.dtype)

    def embed_image(self, tokens: Tensor) -> Tensor:
        return self.aligner(self.codes(tokens))

    def image_logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()

    def head_layers(self) -> Sequence[nn.Module]:
        return [self.head.inner, self.head.logits]

    def decode_image(self, tokens: Tensor) -> Tensor:
        codec, shape = self.codec, self.shape
        codes = codec.quantize.embedding(tokens.to(self.device))
        codes = nn.functional.normalize(codes, dim=-1).view(-1, shape.rows, shape.columns, shape.vq["embed_dim"])
        pixels = codec.decoder(codec.post_quant_conv(codes.permute(0, 3, 1, 2)))
        return ((pixels.float() + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)

    def encode_image(self, pixels: Tensor) -> Tensor:
        codec, (height, width) = self.codec, self.picture_size
        if tuple(pixels.shape[1:]) != (height, width, 3):
            raise UserError(
                f"{self.name} encodes pictures of {width} x {height} pixels with 3 channels, "
                f"but this one is {tuple(pixels.shape[1:])}; resize it first."
            )
        dtype = codec.post_quant_conv.weight.dtype
        x = (pixels.to(self.device, dtype) * 2 - 1).permute(0, 3, 1, 2)
        z = codec.quant_conv(codec.encoder(x)).permute(0, 2, 3, 1).float()
        book = codec.quantize.embedding(torch.arange(self.shape.codebook, device=self.device))
        book = nn.functional.normalize(book.float(), dim=-1)
        # both sides have unit length, so the nearest code is the one with the largest cosine
        return (nn.functional.normalize(z, dim=-1) @ book.T).argmax(-1).flatten(1)

    def skeleton(self) -> Janus:
        ops = choose_ops(self.device, self.dtype)
        codec = build_codec(self.shape.vq).to(self.codec.post_quant_conv.weight.dtype)
        skeleton = Janus(self.name, self.shape, self.tokenizer, codec, ops, device="meta", dtype=self.dtype)
        copy_kept(self.decoder, skeleton.decoder)
        return skeleton

    def shrink(self, weights: str, on: str) -> None:
        """Keep the decoder's matrices in fewer bits, see `small.shrink`; all else stays as it is. For a model on the
        meta device. weights: of SMALL."""
        shrink(self.decoder, lambda _: SMALL[weights], on)
        self.weights = weights
