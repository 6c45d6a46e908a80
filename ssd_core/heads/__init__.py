"""What each attention head looks at: measure it, keep it as a head map, show it to people."""

from __future__ import annotations

from .draw import draw
from .headmap import HeadMap, default_map
from .measure import measure, shares

__all__ = ["HeadMap", "default_map", "draw", "measure", "shares"]
