"""Matrices that a file keeps in 8 bits with a scale beside each, in the layouts that ComfyUI reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ..small import Packed
from .files import Checkpoint, parse

SCALES = (".weight_scale", ".scale_weight")  # today's name, and that of "scaled fp8" files
BESIDE = (*SCALES, ".input_scale", ".scale_input", ".comfy_quant")
MARK = "scaled_fp8"
FORMATS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
METADATA = "_quantization_metadata"


class Scaled:
    """What a checkpoint says of its matrices in 8 bits."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @cached_property
    def scales(self) -> dict[str, str]:
        """The names of the scales, by the names of the matrices that they belong to."""
        entries = self.checkpoint.entries
        named = ((name, suffix) for name in entries for suffix in SCALES if name.endswith(suffix))
        found = {name.removesuffix(suffix) + ".weight": name for name, suffix in named}
        return {matrix: scale for matrix, scale in found.items() if matrix in entries}

    def is_beside(self, name: str) -> bool:
        """Whether a tensor only says something of a matrix that is there. What is said of inputs is not needed: they
        are not rounded."""
        matrices = (name.removesuffix(suffix) + ".weight" for suffix in BESIDE if name.endswith(suffix))
        return name == MARK or any(matrix in self.checkpoint.entries for matrix in matrices)

    def problems(self) -> Iterator[UserError]:
        """What keeps matrices from being read."""
        for layer, about in self._formats():
            found = about.get("format")
            if found not in FORMATS or about.get("convrot"):
                kind = f"{found}, rotated" if found in FORMATS else found
                yield UserError(
                    f"{self.checkpoint.path} keeps {layer} as {kind}, which is not read; "
                    f"take the original weights, or a copy in {', '.join(FORMATS)}."
                )
        for matrix, scale in self.scales.items():
            kept, shape = self.checkpoint.entries[matrix], self.checkpoint.entries[scale].shape
            rows = kept.shape[:1]
            if kept.dtype not in DTYPES or shape not in ((), (1,), (1, 1), rows, (*rows, 1)):
                yield UserError(
                    f"{kept.file} keeps {matrix} as {kept.dtype} with scales of the shape {list(shape)}, which is not "
                    "read; take the original weights."
                )

    def packed(self, name: str, tensor: Tensor) -> Tensor | Packed:
        """A tensor in 8 bits with its scale, 1 for floating point without one; any other as it is."""
        if name not in self.scales:
            return Packed(tensor, torch.ones(())) if tensor.dtype in DTYPES else tensor
        [(_, scale)] = self.checkpoint.read([self.scales[name]])
        return Packed(tensor, scale.reshape(()) if scale.numel() == 1 else scale.reshape(-1, *[1] * (tensor.ndim - 1)))

    def _formats(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is said of each layer: beside its matrix, or in the file's metadata."""
        said = [name for name in self.checkpoint.entries if name.endswith(".comfy_quant")]
        for name, tensor in self.checkpoint.read(said):
            text = bytes(tensor.flatten().to(torch.uint8).tolist()).decode("utf-8", "replace")
            yield name.removesuffix(".comfy_quant"), parse(text, f"{name} in {self.checkpoint.path}")
        if METADATA in self.checkpoint.metadata:
            source = f"the metadata of {self.checkpoint.path}"
            layers = parse(self.checkpoint.metadata[METADATA], source).get("layers")
            for layer, about in (layers if isinstance(layers, dict) else {}).items():
                yield layer, about if isinstance(about, dict) else {"format": json.dumps(about)}
