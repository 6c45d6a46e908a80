"""A second, tiny image model family: what the loop, the cache and the policies are tested on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssd_core.heads.headmap import HeadMap
from ssd_core.models.base import Geometry, ImageModel
from ssd_core.models.decoder import Decoder, DecoderShape

VOCABULARY = 40
BOS, PAD, BEGIN = 0, 1, 2


class TinyModel(ImageModel):
    """Random weights large enough that attention is sharp and every token kept or dropped changes what follows."""

    def __init__(
        self, geometry: Geometry, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
    ) -> None:
        super().__init__()
        self.name, self.geometry, self.vocabulary, self.seed = "tiny", geometry, VOCABULARY, seed
        hidden = 32
        shape = DecoderShape(
            geometry.layers, hidden, geometry.heads, geometry.kv_heads, geometry.head_dim, 48, 1e-6, 10000.0
        )
        where: dict[str, Any] = {"dtype": dtype, "device": device}
        self.decoder = Decoder(shape, nn, **where)
        self.text = nn.Embedding(VOCABULARY, hidden, **where)
        self.codes = nn.Embedding(geometry.codebook, hidden, **where)
        self.head = nn.Linear(hidden, geometry.codebook, **where)
        if device != "meta":
            generator = torch.Generator().manual_seed(seed)
            for name, weight in self.named_parameters():
                if "norm" not in name:
                    scale = 1.0 if name.startswith(("text", "codes", "head")) else 3 / weight.shape[-1] ** 0.5
                    weight.data.copy_(torch.randn(weight.shape, generator=generator) * scale)

    def step_parts(self) -> Sequence[nn.Module]:
        return [self.decoder, self.head, self.codes]

    @property
    def picture_size(self) -> tuple[int, int]:
        return self.geometry.rows * 2, self.geometry.columns * 2

    def encode(self, prompt: str) -> list[int]:
        return [BOS, *(3 + ord(letter) % (VOCABULARY - 3) for letter in prompt), BEGIN]

    def unconditional(self, ids: Sequence[int]) -> list[int]:
        return [ids[0], *[PAD] * (len(ids) - 2), ids[-1]]

    def embed_text(self, ids: Tensor) -> Tensor:
        return self.text(ids.to(self.device))

    def embed_image(self, tokens: Tensor) -> Tensor:
        return self.codes(tokens)

    def image_logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden).float()

    def head_layers(self) -> Sequence[nn.Module]:
        return [self.head]

    def decode_image(self, tokens: Tensor) -> Tensor:
        g = self.geometry
        grey = tokens.float().view(-1, g.rows, g.columns, 1) / g.codebook
        return grey.expand(-1, -1, -1, 3).repeat_interleave(2, 1).repeat_interleave(2, 2)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return (pixels[:, ::2, ::2, 0] * self.geometry.codebook).round().long().flatten(1)

    def skeleton(self) -> TinyModel:
        return TinyModel(self.geometry, self.dtype, "meta")


def tiny(
    layers: int = 2, heads: int = 4, kv_heads: int = 4, rows: int = 4, columns: int = 4, **kwargs: object
) -> TinyModel:
    return TinyModel(Geometry(layers, heads, kv_heads, 8, rows, columns, 20), **kwargs)  # type: ignore[arg-type]


def random_map(geometry: Geometry, seed: int = 0, beyond: bool = False) -> HeadMap:
    """beyond: whether it says how far heads look; of two, one looks too far for any window."""
    random = torch.Generator().manual_seed(seed)
    share = torch.rand(geometry.layers, geometry.heads, generator=random)
    if not beyond:
        return HeadMap(share)
    falling = torch.rand(*share.shape, geometry.columns + 1, generator=random).sort(descending=True).values
    far = torch.where(share[..., None] < 0.5, 0.4, 1.0) * falling
    return HeadMap(share, beyond=far, peak=torch.rand(share.shape, generator=random).maximum(far[..., -1]))
