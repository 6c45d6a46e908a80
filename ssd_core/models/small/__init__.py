"""The decoder's matrices in fewer bits, by products of torch and bitsandbytes; what they multiply stays as it is."""

from .choice import SMALL, WEIGHTS, check_weights, failure, possible_weights, trial_matrix
from .linear import KeptLinear, SmallLinear
from .packed import Packed
from .shrink import Kind, copy_kept, shrink

__all__ = [
    "SMALL",
    "WEIGHTS",
    "KeptLinear",
    "Kind",
    "Packed",
    "SmallLinear",
    "check_weights",
    "copy_kept",
    "failure",
    "possible_weights",
    "shrink",
    "trial_matrix",
]
