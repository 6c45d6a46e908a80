"""Figures in words, for the command line and the nodes, and sizes out of words."""

from __future__ import annotations

import re

from .errors import UserError
from .memory import Memory

PARTS = {
    "weights": "weights_bytes",
    "keys and values": "kv_bytes",
    "their bookkeeping": "bookkeeping_bytes",
    "while prompts are read": "prefill_bytes",
    "while a token is drawn": "step_bytes",
    "its CUDA graph": "graph_bytes",
    "while a preview is made": "preview_bytes",
    "until heads are typed": "replan_bytes",
    "while pictures are decoded": "picture_bytes",
    "at most at once": "peak_bytes",
    "beside it, on the host": "host_bytes",
}  # of a Memory
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parts(*memories: Memory) -> dict[str, str]:
    """Those of PARTS that any of them has."""
    return {label: part for label, part in PARTS.items() if any(getattr(memory, part) for memory in memories)}


def human(count: float) -> str:
    """Bytes in the unit that a person would choose: 1536 -> '1.5 KiB'. None has four digits."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def bytes_of(text: str, option: str) -> int:
    """Those of a text such as 8GB or 7.5GiB. Raises UserError, which names the option, for any other."""
    found = re.fullmatch(r"(\d+\.?\d*) ?([KMG]i?B)", text, re.IGNORECASE)
    if not found:
        raise UserError(f"{option} is a size such as 8GB, 7.5GiB or 512MiB, not {text!r}.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def slots(memory: Memory) -> str:
    """How many tokens the heads keep, and how many they attend, if fewer."""
    kept = spread(memory.slots)
    return kept if memory.attended == memory.slots else f"{kept} ({spread(memory.attended)} attended)"


def spread(counts_by_layer: list[list[int]]) -> str:
    """The mean of the heads' counts, and the range if there is one."""
    counts = [count for layer in counts_by_layer for count in layer]
    mean = f"{sum(counts) / len(counts):.0f}"
    return mean if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}, mean {mean}"
