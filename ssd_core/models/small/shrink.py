"""Small layers in a decoder, in the place of its own."""

from __future__ import annotations

from ..decoder import Decoder, add_linear
from .choice import SMALL

LINEAR = ("qkv", "out", "gate_up", "down")


def shrink(decoder: Decoder, weights: str, on: str) -> None:
    """Give a decoder on the meta device small layers in the place of its linear ones, in the same places and without
    content. Its norms stay as they are.

    weights: of SMALL.
    on: the type of the device that is to compute.
    """
    dtype = decoder.norm.weight.dtype
    for layer in decoder.layers:
        for name in LINEAR:
            outputs, inputs = getattr(layer, name).weight.shape
            setattr(layer, name, SMALL[weights](inputs, outputs, on, dtype))
        setattr(layer, "add_linear", add_linear)  # noqa: B010  # a namespace's own would look for a plain matrix
