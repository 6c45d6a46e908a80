"""The cache policies, one a file, by the names that the command line and the nodes use."""

from __future__ import annotations

from .base import Keep, Policy, RankingPolicy, View
from .full import Full
from .headkv import HeadKV
from .ssd import SSD
from .streaming import StreamingLLM
from .window import Window

METHODS: dict[str, type[Policy]] = {
    "full": Full,
    "window": Window,
    "streaming": StreamingLLM,
    "ssd": SSD,
    "headkv": HeadKV,
}

__all__ = ["METHODS", "SSD", "Full", "HeadKV", "Keep", "Policy", "RankingPolicy", "StreamingLLM", "View", "Window"]
