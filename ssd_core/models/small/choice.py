"""Which small precisions there are, and which of them a device can do."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ...errors import UserError
from ..placement import first_line
from .int4 import Int4
from .int8 import Int8
from .linear import SmallLinear
from .nf4 import NF4
from .packed import Packed
from .shrink import Kind

SMALL: dict[str, type[SmallLinear]] = {"int8": Int8, "int4": Int4, "nf4": NF4}
WEIGHTS = ("auto", *SMALL)  # auto: as the model computes
SIDE = 64  # of the matrix that is tried
TOLERANCE = 0.3  # of its product, relative; four bits err by a tenth
# of what a device, or a library, may raise that cannot do it
FAILURES = RuntimeError, AttributeError, AssertionError, ImportError, LookupError, OSError, TypeError, ValueError


def check_weights(weights: str, device: torch.device | None = None, dtype: torch.dtype = torch.bfloat16) -> None:
    """Raise UserError unless weights can be kept so, and, where a device is given, can be computed with on it."""
    if weights not in WEIGHTS:
        raise UserError(f"Weights are kept in {', '.join(WEIGHTS)}, not in {weights!r}.")
    if device is not None and weights != "auto" and (reason := refusal(weights, device, dtype)):
        raise UserError(reason)


def possible_weights(device: torch.device, dtype: torch.dtype) -> list[str]:
    """What a model of this dtype can keep its decoder's matrices in on this device.

    What needs a library is named where that is installed, and tried when it is chosen: whoever only asks what there is,
    ComfyUI when it starts, shall not wait a second for an import.
    """

    def is_possible(weights: str, kind: type[SmallLinear]) -> bool:
        return refusal(weights, device, dtype) is None if kind.LIBRARY is None else find_spec(kind.LIBRARY) is not None

    return ["auto", *(weights for weights, kind in SMALL.items() if is_possible(weights, kind))]


@cache
def refusal(weights: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why weights cannot be kept so there, in a sentence; None where they can."""
    kind = SMALL[weights]
    try:
        why = failure(kind, trial_matrix(), device, dtype)
    except ModuleNotFoundError as absent:
        if kind.LIBRARY is None or absent.name != kind.LIBRARY:
            raise
        return f"{weights} weights need {kind.LIBRARY}, which is not installed; run: pip install {kind.LIBRARY}"
    return why and f"{weights} weights {why}; take others, or 'auto'."


def trial_matrix() -> Tensor:
    """What is tried, [SIDE, SIDE]."""
    return torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def failure(kind: Kind, matrix: Tensor | Packed, device: torch.device, dtype: torch.dtype) -> str | None:
    """What happens when a layer takes a matrix [SIDE, SIDE] and is used on a device, where that is not the product.

    Raises ModuleNotFoundError for a library that is absent.
    """
    plain = matrix.unpacked() if isinstance(matrix, Packed) else matrix
    x = torch.randn(2, SIDE, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    try:
        layer = kind(SIDE, SIDE, device.type, dtype).to_empty(device=device)
        layer.take([matrix], device)
        exact = x.float() @ plain.to(device).T
        error = float((layer.to(device)(x).float() - exact).norm() / exact.norm())
    except ModuleNotFoundError:
        raise
    except FAILURES as failed:
        return f"do not work on {device} here ({first_line(failed)})"
    return None if error < TOLERANCE else f"give wrong results on {device} here"
