"""The cache policies, one a file, by the names that the command line and the nodes use."""

from __future__ import annotations

from .base import Keep, Policy, RankingPolicy, View
from .diagonal import Diagonal
from .full import Full
from .ssd import SSD
from .streaming import StreamingLLM
from .window import Window

METHODS: dict[str, type[Policy]] = {
    "full": Full,
    "window": Window,
    "streaming": StreamingLLM,
    "diagonal": Diagonal,
    "ssd": SSD,
}

__all__ = ["METHODS", "SSD", "Diagonal", "Full", "Keep", "Policy", "RankingPolicy", "StreamingLLM", "View", "Window"]
