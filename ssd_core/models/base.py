"""The contract of an image model: what the loop, the cache and the policies may know about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .decoder import Decoder


@dataclass(frozen=True)
class Geometry:
    """The sizes of a model that its cache and its policies depend on."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rows: int
    columns: int
    codebook: int

    @property
    def tokens(self) -> int:
        """Image tokens of one picture."""
        return self.rows * self.columns

    def cached_tokens(self, prompt: int, rows: int | None = None) -> int:
        """Tokens a full cache holds once `rows` rows of a picture are drawn, all by default: the last image token is
        drawn, but not fed back yet."""
        return prompt + (self.rows if rows is None else rows) * self.columns - 1


class ImageModel(nn.Module, ABC):
    """An autoregressive image model: prompt encoder, decoder, image head and picture decoder.

    The engine calls these members and no others, so a second family fits without touching the loop, the cache or a
    policy.
    """

    name: str
    geometry: Geometry
    vocabulary: int  # text tokens
    decoder: Decoder
    weights: str = "auto"  # what the decoder's matrices are kept in; auto is what it computes in
    computes_on: torch.device | None = None  # set by whoever moves the weights, ComfyUI say

    @property
    def host_parts(self) -> Sequence[nn.Module]:
        """What of it stays in the host's memory while it computes on a device; nothing where it computes on the
        processor."""
        return ()

    @property
    @abstractmethod
    def picture_size(self) -> tuple[int, int]:
        """Height and width of its pictures, in pixels."""

    @abstractmethod
    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt in the model's template, first the begin-of-sentence, last the begin-of-image token."""

    @abstractmethod
    def unconditional(self, ids: Sequence[int]) -> list[int]:
        """The ids that guidance compares a prompt's ids with; as many as the prompt's."""

    @abstractmethod
    def embed_text(self, ids: Tensor) -> Tensor:
        """int64 [B, T] prompt ids -> [B, T, hidden] on the decoder's device."""

    @abstractmethod
    def embed_image(self, tokens: Tensor) -> Tensor:
        """int64 [B] image tokens -> [B, hidden]."""

    @abstractmethod
    def image_logits(self, hidden: Tensor) -> Tensor:
        """[B, hidden] of the newest token -> float32 [B, codebook], the logits of the next image token."""

    def head_layers(self) -> Sequence[nn.Module]:
        """The linear layers of the image head, if `image_logits` is these with gelu between them, and nothing else;
        else none."""
        return ()

    @abstractmethod
    def decode_image(self, tokens: Tensor) -> Tensor:
        """int64 [B, tokens] -> float32 [B, height, width, 3] in 0..1, all at once: the caller chooses the chunk."""

    @abstractmethod
    def encode_image(self, pixels: Tensor) -> Tensor:
        """float [B, *picture_size, 3] in 0..1 -> int64 [B, tokens]."""

    @abstractmethod
    def skeleton(self) -> ImageModel:
        """The same model on torch's meta device: shapes and no memory, for planning."""

    @property
    def device(self) -> torch.device:
        """Where the model computes: where its weights lie, unless somebody brings them to `computes_on`."""
        return self.computes_on or self.decoder.norm.weight.device

    def step_parts(self) -> Sequence[nn.Module]:
        """What a token passes through."""
        return [self.decoder]

    @property
    def is_resident(self) -> bool:
        """Whether all weights of a step lie where it computes; otherwise they are brought piece by piece, each time."""
        weights = (weight for part in self.step_parts() for weight in part.parameters())
        return all(weight.device == self.device for weight in weights)

    @property
    def dtype(self) -> torch.dtype:
        """What the decoder computes in, and what keys and values are kept in."""
        return self.decoder.norm.weight.dtype
