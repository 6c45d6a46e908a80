"""Draw pictures with autoregressive models while keeping only the keys and values each attention head needs.

The public names are those of api.py. It is imported, and torch with it, when the first of them is used, so that
`ssd-janus --help` need not wait.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    return getattr(import_module(".api", __name__), name)
