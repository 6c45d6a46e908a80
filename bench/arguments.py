"""What the commands' arguments have in common, and how mistakes in them are told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ssd_core.errors import UserError
from ssd_core.words import bytes_of


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a number, 1 at least, not {text}")
    return int(text)


def memory(text: str) -> int:
    """Bytes of a size such as 8GiB."""
    try:
        return bytes_of(text, "it")
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


@contextmanager
def told() -> Iterator[None]:
    """A user's mistake ends the command with its sentence."""
    try:
        yield
    except UserError as error:
        sys.exit(str(error))
