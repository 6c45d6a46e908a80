"""The public names of `ssd_core`."""

from .errors import UserError
from .loop import Result, generate
from .memory import Memory, largest_batch, plan
from .models.checkpoint import load
from .policies import METHODS, SSD, Full, Policy, StreamingLLM, Window

__all__ = [
    "METHODS",
    "SSD",
    "Full",
    "Memory",
    "Policy",
    "Result",
    "StreamingLLM",
    "UserError",
    "Window",
    "generate",
    "largest_batch",
    "load",
    "plan",
]
