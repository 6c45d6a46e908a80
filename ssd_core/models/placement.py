"""Where a model computes, in what, and with which layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from ..errors import UserError
from . import few_rows

DTYPES = {
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    "half": torch.float16,
    "fp32": torch.float32,
    "float32": torch.float32,
}


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """A device that works; 'auto' is CUDA (or ROCm), else Apple's, else the processor."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"The device {device} does not work here ({first_line(error)}); take 'auto' or 'cpu'."
        ) from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device, kept: torch.dtype | None = None) -> torch.dtype:
    """The dtype to compute in.

    'auto' is bfloat16, which Janus was trained in, float16 on devices that do not compute in it, and float32 on the
    processor: it is exact there, and for small models the fastest. A processor that multiplies in bfloat16 takes this
    for weights that are kept in it, which are twice as many bytes to read in float32.

    kept: what the files keep the weights in, where that is known.
    """
    if dtype == "auto":
        if device.type == "cpu":
            return torch.bfloat16 if kept == torch.bfloat16 and computes_in_bfloat16(device) else torch.float32
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float16
    found = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in DTYPES.values():
        raise UserError(f"A model computes in 'bf16', 'fp16' or 'fp32', not in {str(dtype)!r}.")
    return found


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 by itself; torch alone would also say so of one that emulates it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # which older ones do not tell
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "sve_bf16"))
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def choose_ops(device: torch.device, dtype: torch.dtype) -> ModuleType:
    """The namespace of the layer classes that are the fastest there."""
    return few_rows if device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) else torch.nn


def codec_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The picture codec's dtype in a model of `dtype`: bfloat16 on a device if the model is, else float32.

    Not float16, whose range it was not trained for: a picture that overflows is black.
    """
    return dtype if dtype == torch.bfloat16 and device.type != "cpu" else torch.float32


def first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
