"""The cache policies, one a file, by the names that the command line and the nodes use."""

from __future__ import annotations

from .adsa import ADSA
from .base import Keep, Policy, RankingPolicy, View
from .diagonal import Diagonal
from .full import Full
from .h2o import H2O
from .headkv import HeadKV
from .line_ar import LineAR
from .reach import Reach
from .snapkv import SnapKV
from .ssd import SSD
from .streaming import StreamingLLM
from .window import Window

METHODS: dict[str, type[Policy]] = {
    "full": Full,
    "window": Window,
    "streaming": StreamingLLM,
    "diagonal": Diagonal,
    "ssd": SSD,
    "reach": Reach,
    "h2o": H2O,
    "snapkv": SnapKV,
    "line-ar": LineAR,
    "adsa": ADSA,
    "headkv": HeadKV,
}
DEFAULT = "reach"  # of those that keep a cache small

__all__ = [
    "ADSA",
    "DEFAULT",
    "H2O",
    "METHODS",
    "SSD",
    "Diagonal",
    "Full",
    "HeadKV",
    "Keep",
    "LineAR",
    "Policy",
    "RankingPolicy",
    "Reach",
    "SnapKV",
    "StreamingLLM",
    "View",
    "Window",
]
