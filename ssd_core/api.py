"""The public names of `ssd_core`."""

from .encoding import encode
from .errors import OutOfMemoryError, UserError
from .heads import HeadMap, measure
from .loop import Result, generate, paint
from .memory import Memory, largest_batch, plan
from .models.checkpoint import load
from .policies import ADSA, H2O, METHODS, SSD, Full, HeadKV, LineAR, Policy, SnapKV, StreamingLLM, Window
from .start import keep_of

__all__ = [
    "ADSA",
    "H2O",
    "METHODS",
    "SSD",
    "Full",
    "HeadKV",
    "HeadMap",
    "LineAR",
    "Memory",
    "OutOfMemoryError",
    "Policy",
    "Result",
    "SnapKV",
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
