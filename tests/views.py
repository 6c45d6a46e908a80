"""Views of one head, made by hand, and who leaves first by what a policy says of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ssd_core.policies import RankingPolicy, View


def view_of(
    position: Sequence[int],
    score: Sequence[float] = (),
    keys: Sequence[Sequence[float]] | None = None,
    values: Sequence[Sequence[float]] | None = None,
    queries: Sequence[Sequence[Sequence[float]]] = (),
    columns: int = 4,
    pinned: int = 0,
    slots: int | None = None,
) -> View:
    """keys, values [S, D], queries [Q, G, D]; of no size where a test has none; as many slots as tokens
    unless given."""
    unseen = torch.empty(1, len(position), 0)
    return View(
        position=torch.tensor([position], dtype=torch.int32),
        score=torch.tensor([score]),
        keys=unseen if keys is None else torch.tensor([keys]),
        values=unseen if values is None else torch.tensor([values]),
        queries=torch.tensor([queries]) if queries else torch.empty(1, 0, 1, 0),
        newest=max(position),
        pinned=pinned,
        slots=len(position) if slots is None else slots,
        columns=columns,
        role="semantic",
    )


def order_of(policy: RankingPolicy, view: View) -> list[int]:
    """Positions that are not pinned, the first to leave first."""
    order = view.position[0, policy.priority(view)[0].argsort()].tolist()
    return [position for position in order if position >= view.pinned]
