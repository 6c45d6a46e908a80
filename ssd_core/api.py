"""The public names of `ssd_core`."""

from .encoding import encode
from .errors import OutOfMemoryError, UserError
from .heads import HeadMap, measure
from .loop import Result, generate, paint
from .memory import Memory, largest_batch, plan
from .models.checkpoint import load
from .policies import METHODS, SSD, Diagonal, Full, Policy, StreamingLLM, Window
from .start import keep_of

__all__ = [
    "METHODS",
    "SSD",
    "Diagonal",
    "Full",
    "HeadMap",
    "Memory",
    "OutOfMemoryError",
    "Policy",
    "Result",
    "StreamingLLM",
    "UserError",
    "Window",
    "encode",
    "generate",
    "keep_of",
    "largest_batch",
    "load",
    "measure",
    "paint",
    "plan",
]
