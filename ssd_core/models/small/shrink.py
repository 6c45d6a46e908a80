"""Layers that keep their matrices in fewer bits, in the place of a decoder's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ..decoder import Decoder, Layer, add_linear
from .linear import KeptLinear

LINEAR = ("qkv", "out", "gate_up", "down")
Kind = Callable[[int, int, str, torch.dtype], KeptLinear]  # as KeptLinear is made


def shrink(decoder: Decoder, kind_of: Callable[[str], Kind | None], on: str) -> None:
    """Give a decoder on the meta device other layers in the place of its linear ones, in the same places and without
    content. Its norms stay as they are.

    kind_of: of which kind a matrix becomes, by its name, such as 'layers.0.qkv'; None leaves it as it is.
    on: the type of the device that is to compute.
    """
    dtype = decoder.norm.weight.dtype
    for name, layer, place in matrices(decoder):
        if kind := kind_of(name):
            outputs, inputs = getattr(layer, place).weight.shape
            put(layer, place, kind(inputs, outputs, on, dtype))


def copy_kept(decoder: Decoder, skeleton: Decoder) -> None:
    """Give a decoder's skeleton those of the decoder's layers that are none of its own."""
    for (_, layer, place), (_, other, _) in zip(matrices(decoder), matrices(skeleton), strict=True):
        if isinstance(own := getattr(layer, place), KeptLinear):
            put(other, place, own.skeleton())


def matrices(decoder: Decoder) -> Iterator[tuple[str, Layer, str]]:
    """All places of matrices: a name, the layer, and what it calls the place."""
    for index, layer in enumerate(decoder.layers):
        for place in LINEAR:
            yield f"layers.{index}.{place}", layer, place  # type: ignore[misc]  # torch types a list's modules as such


def put(layer: Layer, place: str, own: KeptLinear) -> None:
    setattr(layer, place, own)
    setattr(layer, "add_linear", add_linear)  # noqa: B010  # a namespace's own would look for a plain matrix
