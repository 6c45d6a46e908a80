"""Weights that come out the same wherever they are made: for checkpoints that two programs have to build alike."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray


def weight(name: str, shape: Sequence[int], gain: float = 1.0) -> NDArray[np.float32]:
    """Values that depend on the name and the shape alone.

    Norms are around 1, biases around 0, and all other weights keep the size of what passes through them, times `gain`.
    """
    uniform = np.random.Generator(np.random.Philox(crc32(name.encode()))).random(shape, dtype=np.float32) * 2 - 1
    if len(shape) > 1:
        inputs = int(np.prod(shape[1:])) if "embed" not in name else 1
        return uniform * np.float32(gain * (3 / inputs) ** 0.5)
    return uniform * np.float32(0.1) + np.float32(name.endswith("norm.weight") or "norm" in name.split(".")[-2])
