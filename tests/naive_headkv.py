"""HeadKV for images, one head of one row, written from its description: everything is remembered, and what the head
would have dropped is masked. Shares nothing with the policy but its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssd_core.models.base import Geometry
from ssd_core.policies import HeadKV


class NaiveHeadKV:
    """`kind` is None until the head is typed."""

    def __init__(
        self, policy: HeadKV, geometry: Geometry, prompt: int, rounded: Callable[[Tensor], Tensor] = torch.Tensor.clone
    ) -> None:
        self.rounded = rounded
        whole = prompt + geometry.tokens - 1
        budget = policy.budget
        self.slots = min(int(budget * (prompt + geometry.tokens)) if isinstance(budget, float) else budget, whole)
        self.window = policy.local or 2 * geometry.columns
        self.buffer = geometry.columns if policy.refresh == "row" else policy.refresh
        self.mass, self.split, self.prompt = policy.mass, policy.split, prompt
        self.typed_at = max(policy.type_at, prompt + math.ceil(self.window / policy.mass))
        self.kind = "global" if self.slots == whole else None
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.queries: list[Tensor] = []
        self.alive: list[int] = []
        self.leaving: list[int] = []

    def remember(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = list(self.rounded(keys)), list(self.rounded(values))
        self.alive = list(range(len(keys)))

    def come(self, k: Tensor, v: Tensor) -> None:
        if self.kind is None and len(self.keys) == self.typed_at:
            self.kind = "local" if self.reach() < self.window else "global"
            held = min(self.prompt + self.window, self.slots) if self.kind == "local" else self.slots
            too_many = max(0, len(self.alive) - held)
            self.drop(self.by_age()[:too_many] if self.kind == "local" else self.worst()[:too_many])
        if self.kind == "local" and len(self.alive) == min(self.prompt + self.window, self.slots):
            self.drop(self.by_age()[:1])
        if self.kind == "global" and len(self.alive) == self.slots:
            self.leaving = self.leaving or self.worst()[: self.buffer]
            self.drop([self.leaving.pop(0)])
        self.alive.append(len(self.keys))
        self.keys.append(self.rounded(k))
        self.values.append(self.rounded(v))

    def drop(self, positions: list[int]) -> None:
        self.alive = [position for position in self.alive if position not in positions]

    def by_age(self) -> list[int]:
        """The image tokens held, the oldest first."""
        return sorted(position for position in self.alive if position >= self.prompt)

    def reach(self) -> int:
        """How many tokens, from the newest backward, have `mass` of the newest query's attention to image tokens."""
        image = torch.stack(self.keys[self.prompt :])
        rows = [(image @ query / len(query) ** 0.5).softmax(0) for query in self.queries[-1]]
        shares = [sum(float(row[at]) for row in rows) / len(rows) for at in range(len(image))]
        gathered, reach = 0.0, 0
        while gathered < self.mass:
            reach += 1
            gathered += shares[-reach]
        return reach

    def worst(self) -> list[int]:
        """Image tokens in the order in which they leave: in turns the worst of the older and of the younger part of the
        history; when it is gone, the window, the oldest first."""
        tokens = self.by_age()
        end = max(0, len(tokens) - self.window)
        history, recent = tokens[:end], tokens[end:]
        newest = [query for step in self.queries[-self.buffer :] for query in step]

        def answer(position: int) -> float:
            return sum(float(query @ self.keys[position]) for query in newest) / len(newest)

        cut = int(self.split * len(history))
        older, younger = sorted(history[:cut], key=answer), sorted(history[cut:], key=answer)
        order = []
        while older or younger:
            order += older[:1] + younger[:1]
            older, younger = older[1:], younger[1:]
        return order + recent

    def answer(self, queries: Tensor) -> Tensor:
        """Queries [G, D] of the newest token -> [G, D]."""
        self.queries.append(queries)
        keys, values = (torch.stack([part[at] for at in self.alive]) for part in (self.keys, self.values))
        return (queries @ keys.T / queries.shape[-1] ** 0.5).softmax(-1) @ values
