"""Sizes in whole blocks."""

from __future__ import annotations


def rounded_up(size: int, multiple: int) -> int:
    """The least multiple that is not less."""
    return -(-size // multiple) * multiple
