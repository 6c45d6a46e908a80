"""Draw pictures with autoregressive models while keeping only the keys and values each attention head needs.

The public names are those of api.py. It is imported, and torch with it, when the first of them is used, so that
`ssd-janus --help` need not wait.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import *  # noqa: F403

__version__ = "0.1.0"


class Package(ModuleType):
    """This package, with the public names."""

    def __getattr__(self, name: str) -> object:
        return getattr(import_module(".api", self.__name__), name)

    def __setattr__(self, name: str, value: object) -> None:
        # what is imported from generate.py binds that module to the package, where `generate` means the function
        if name != "generate":
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = Package
