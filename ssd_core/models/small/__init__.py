"""The decoder's matrices in fewer bits, by products of torch and bitsandbytes; what they multiply stays as it is."""

from .choice import WEIGHTS, check_weights, possible_weights
from .linear import SmallLinear
from .shrink import shrink

__all__ = ["WEIGHTS", "SmallLinear", "check_weights", "possible_weights", "shrink"]
