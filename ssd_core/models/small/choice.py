"""Which small precisions there are, and which of them a device can do."""

from __future__ import annotations

from functools import cache

import torch

from ...errors import UserError
from ..placement import first_line
from .int4 import Int4
from .int8 import Int8
from .linear import SmallLinear
from .nf4 import NF4

SMALL: dict[str, type[SmallLinear]] = {"int8": Int8, "int4": Int4, "nf4": NF4}
WEIGHTS = ("auto", *SMALL)  # auto: as the model computes
SIDE = 64  # of the matrix that is tried
TOLERANCE = 0.3  # of its product, relative; four bits err by a tenth


def check_weights(weights: str, device: torch.device | None = None, dtype: torch.dtype = torch.bfloat16) -> None:
    """Raise UserError unless weights can be kept so, and, where a device is given, can be computed with on it."""
    if weights not in WEIGHTS:
        raise UserError(f"Weights are kept in {', '.join(WEIGHTS)}, not in {weights!r}.")
    if device is not None and weights != "auto" and (reason := refusal(weights, device, dtype)):
        raise UserError(reason)


def possible_weights(device: torch.device, dtype: torch.dtype) -> list[str]:
    """What a model of this dtype can keep its decoder's matrices in on this device."""
    return ["auto", *(weights for weights in SMALL if refusal(weights, device, dtype) is None)]


@cache
def refusal(weights: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why weights cannot be kept so there, in a sentence; None where they can. A layer is made and used to tell."""
    kind = SMALL[weights]
    try:
        error = trial(kind, device, dtype)
    except ModuleNotFoundError as absent:
        if kind.LIBRARY is None or absent.name != kind.LIBRARY:
            raise
        return f"{weights} weights need {kind.LIBRARY}, which is not installed; run: pip install {kind.LIBRARY}"
    except (RuntimeError, AttributeError, AssertionError, ImportError, OSError, TypeError, ValueError) as failed:
        return f"{weights} weights do not work on {device} here ({first_line(failed)}); take others, or 'auto'."
    if not error < TOLERANCE:
        return f"{weights} weights give wrong results on {device} here; take others, or 'auto'."
    return None


@torch.inference_mode()
def trial(kind: type[SmallLinear], device: torch.device, dtype: torch.dtype) -> float:
    """How much a small layer's product is off, relative to the product; raises whatever it raises."""
    random = torch.Generator().manual_seed(0)
    matrix, x = (torch.randn(rows, SIDE, generator=random).to(device, dtype) for rows in (SIDE, 2))
    layer = kind(SIDE, SIDE, device.type, dtype).to_empty(device=device)
    layer.keep(matrix)
    exact = x.float() @ matrix.float().T
    return float((layer(x).float() - exact).norm() / exact.norm())
