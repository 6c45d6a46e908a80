"""What each method that ranks says of a head, from its description alone: plain loops over what the naive reference
kept, in Python's floats. No code is shared with the policies but their parameters."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ssd_core.policies import ADSA, H2O, SSD, LineAR, Reach, SnapKV

if TYPE_CHECKING:
    from tests.naive import NaiveHead

SMALLEST = 1e-35  # below, float32 has less digits


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def lowest_first(head: NaiveHead, worth: dict[int, float], recent: int) -> list[int]:
    """The droppable positions: the least worth first, of equals the older, and the `recent` newest last, by age."""
    newest = len(head.keys) - 1
    droppable = [position for position in sorted(head.alive) if position >= head.keep.pinned]
    old = sorted((p for p in droppable if newest - p >= recent), key=worth.__getitem__)
    said = [worth[position] for position in old[: head.refresh + 1]]  # by these it is settled who leaves, and when
    head.closest = min([head.closest, *(apart(*both) for both in pairwise(said))])
    return old + droppable[len(old) :]


def apart(less: float, more: float) -> float:
    """The share by which two sums of float32 numbers differ; 0 where they are not right but for rounding, as small as
    they are. What neither got anything of is sure: they are alike."""
    if more == 0:
        return 1.0
    return 1 - less / more if more > SMALLEST else 0.0


def rounded(worth: dict[int, float]) -> dict[int, float]:
    """To the three digits of half precision."""
    return {position: struct.unpack("e", struct.pack("e", value))[0] for position, value in worth.items()}


def attended(head: NaiveHead, newest: int) -> dict[int, float]:
    """What the newest queries, each of which saw what came no later than itself, attend of what is still held."""
    total = dict.fromkeys(head.alive, 0.0)
    for ago, queries in enumerate(reversed(head.queries[-newest:])):
        seen = [position for position in head.alive if position <= len(head.keys) - 1 - ago]
        for query in queries.tolist():
            logits = [dot(query, head.keys[position].tolist()) / math.sqrt(len(query)) for position in seen]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            for position, weight in zip(seen, weights, strict=True):
                total[position] += weight / sum(weights)
    return total


def received(head: NaiveHead, half_life: float = math.inf) -> dict[int, float]:
    """The attention each held token ever received; what came `half_life` steps ago counts half."""
    total = dict.fromkeys(head.alive, 0.0)
    for ago, row in enumerate(reversed(head.rows)):
        for position in total.keys() & row.keys():
            total[position] += row[position] * 0.5 ** (ago / half_life)
    return total


def rows_to_keep(head: NaiveHead, recent: int | None) -> int:
    """Two rows, or half of the free slots where that is less, but a row + 1 at least."""
    if recent is not None:
        return recent
    return max(head.columns + 1, min(2 * head.columns, (head.keep.slots - head.keep.pinned) // 2))


def ssd(policy: SSD, head: NaiveHead) -> list[int]:
    if policy.literal:
        return lowest_first(head, received(head), 0)
    half_life = 1.0 if policy.half_life is None else policy.half_life
    recent = max(head.columns + 1, head.keep.slots // 2) if policy.recent is None else policy.recent
    return lowest_first(head, received(head, half_life * head.columns), recent)


def reach(policy: Reach, head: NaiveHead) -> list[int]:
    half_life = 0.5 if policy.half_life is None else policy.half_life
    return lowest_first(head, received(head, half_life * head.columns), (head.keep.slots - head.keep.pinned) // 2)


def h2o(policy: H2O, head: NaiveHead) -> list[int]:
    recent = head.keep.slots // 2 if policy.recent is None else policy.recent
    return lowest_first(head, rounded(received(head)), recent)


def snapkv(policy: SnapKV, head: NaiveHead) -> list[int]:
    window = head.columns + 1 if policy.window is None else policy.window
    total = attended(head, window)
    outside = {position: total[position] for position in head.alive if len(head.keys) - 1 - position >= window}
    reach = policy.pool // 2
    pooled = {
        position: sum(outside.get(position + by, 0.0) for by in range(-reach, reach + 1)) / policy.pool
        for position in outside
    }
    return lowest_first(head, rounded(pooled), window)


def line_ar(policy: LineAR, head: NaiveHead) -> list[int]:
    return lowest_first(head, rounded(attended(head, head.columns)), rows_to_keep(head, policy.recent))


def adsa(policy: ADSA, head: NaiveHead) -> list[int]:
    recent, newest = rows_to_keep(head, policy.recent), len(head.keys) - 1
    between = [position for position in head.alive if head.keep.pinned <= position <= newest - recent]
    values = {position: head.values[position].tolist() for position in between}
    unit = {position: [x / math.hypot(*value) for x in value] for position, value in values.items()}
    # the sum of the cosines with all, its own included, ranks like their mean with the others
    differs = {position: -sum(dot(unit[position], unit[other]) for other in between) for position in between}
    return lowest_first(head, rounded(differs), recent)


REFERENCES: dict[type, Callable[[Any, NaiveHead], list[int]]] = {
    SSD: ssd,
    Reach: reach,
    H2O: h2o,
    SnapKV: snapkv,
    LineAR: line_ar,
    ADSA: adsa,
}
