"""Reading checkpoints: DeepSeek's own layout, transformers', and both in one file."""

from .inspection import Inspection, Part, inspect
from .pack import save_single_file
from .read import load

__all__ = ["Inspection", "Part", "inspect", "load", "save_single_file"]
