"""The naive reference of the compressed cache: keep every key and value, and mask what the policy dropped.

It recomputes nothing cleverly and shares no code with the slots: one Python loop over rows and heads, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssd_core.models.base import ImageModel
from ssd_core.models.decoder import split_heads
from ssd_core.policies import HeadKV, Keep, Policy, RankingPolicy, View
from ssd_core.sampling import Sampling, streams
from tests.naive_headkv import NaiveHeadKV
from tests.naive_methods import REFERENCES

Rounding = Callable[[Tensor], Tensor]  # of keys or values, [..., D]


def as_it_is(x: Tensor) -> Tensor:
    return x


class NaiveHead:
    """One key-value head of one row: everything it ever saw, and which positions it still holds."""

    def __init__(
        self,
        keep: Keep,
        policy: Policy,
        columns: int,
        refresh: int,
        fade: float,
        kept_queries: int = 0,
        rounded: Rounding = as_it_is,
    ) -> None:
        self.keep, self.policy, self.columns, self.refresh, self.fade = keep, policy, columns, refresh, fade
        self.kept_queries, self.rounded = kept_queries, rounded
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.alive: list[int] = []
        self.score: dict[int, float] = {}
        self.leaving: list[int] = []
        self.queries: list[Tensor] = []
        self.skipped: set[int] = set()  # distances from the newest token
        self.closest = 1.0  # two tokens' worths were, as a share of one, where they settled who leaves first
        self.rows: list[dict[int, float]] = []  # of each image token, what it attended

    def remember(self, keys: Tensor, values: Tensor) -> None:
        """A prompt [T, D] comes at once; of one that is too long the pinned tokens stay, and the newest."""
        tokens, pinned = len(keys), self.keep.pinned
        self.keys, self.values = list(self.rounded(keys)), list(self.rounded(values))
        self.score = dict.fromkeys(range(tokens), 0.0)
        newest = range(max(pinned, tokens - (self.keep.slots - pinned)), tokens)
        self.alive = [*range(min(pinned, tokens)), *newest]

    def come(self, k: Tensor, v: Tensor) -> None:
        """A token comes; if the slots are full, one leaves first."""
        if len(self.alive) >= self.keep.slots:
            leaving = self.next_to_leave()
            self.alive.remove(leaving)
        position = len(self.keys)
        self.keys.append(self.rounded(k))
        self.values.append(self.rounded(v))
        self.alive.append(position)
        self.score[position] = 0.0

    def next_to_leave(self) -> int:
        droppable = [position for position in self.alive if position >= self.keep.pinned]
        if not self.keep.ranked:
            return min(droppable)
        if not self.leaving:
            recalls = isinstance(self.policy, RankingPolicy) and self.policy.recalls
            if recalls:
                self.alive = [*range(len(self.keys))]
            reference = REFERENCES.get(type(self.policy))
            order = reference(self.policy, self) if reference else self.ranked()
            if recalls:
                order = order[-(self.keep.slots - self.keep.pinned) :]
                self.alive = [*range(self.keep.pinned), *order]
            self.leaving = order[: self.refresh]
        return self.leaving.pop(0)

    def ranked(self) -> list[int]:
        """The droppable positions in the order of a policy that has no reference: its own priority says."""
        assert isinstance(self.policy, RankingPolicy)
        view = View(
            position=torch.tensor([self.alive], dtype=torch.int32),
            score=torch.tensor([[self.score[position] for position in self.alive if self.policy.scores]]),
            keys=torch.stack([self.keys[position] for position in self.alive])[None],
            values=torch.stack([self.values[position] for position in self.alive])[None],
            queries=self.newest_queries(),
            newest=len(self.keys) - 1,
            pinned=self.keep.pinned,
            slots=self.keep.slots,
            columns=self.columns,
            role=self.keep.role,
        )
        order = self.policy.priority(view)[0].argsort(stable=True).tolist()  # of equals the older goes
        return [self.alive[place] for place in order if self.alive[place] >= self.keep.pinned]

    def newest_queries(self) -> Tensor:
        """As a policy sees them, [1, Q, G, D]."""
        newest = self.queries[max(0, len(self.queries) - self.kept_queries) :]
        return torch.stack(newest)[None] if newest else torch.empty(1, 0, 1, self.keys[0].shape[-1])

    def answer(self, queries: Tensor) -> Tensor:
        """Queries [G, D] of the newest token -> [G, D]."""
        keys, values = torch.stack(self.keys), torch.stack(self.values)
        logits = queries @ keys.T / queries.shape[-1] ** 0.5
        mask = torch.full((len(keys),), -torch.inf)
        newest = len(keys) - 1
        attended = [p for p in self.alive if p < self.keep.pinned or newest - p not in self.skipped]
        mask[attended] = 0
        weights = (logits + mask).softmax(-1)
        self.queries.append(queries)
        received = weights.sum(0).tolist()
        self.rows.append({position: received[position] for position in self.alive})
        for position in self.alive:
            self.score[position] = self.score[position] * self.fade + received[position]
        # while the slots fill, a step that attends as much as is allowed ends with a distance to skip
        if len(attended) == self.keep.attended and len(self.alive) < self.keep.slots:
            least = min(attended[self.keep.pinned : -1], key=received.__getitem__)
            self.skipped.add(newest - least)
        return weights @ values


class NaiveCache:
    """The caches of all rows, layers and heads, with the prompt run token by token."""

    def __init__(self, model: ImageModel, policy: Policy, prompts: Sequence[int], rounded: Rounding) -> None:
        geometry = model.geometry
        self.kv_heads = geometry.kv_heads
        ranking = isinstance(policy, RankingPolicy)
        refresh = policy.steps_between(geometry) if isinstance(policy, RankingPolicy) else 0
        fade = policy.fade(geometry) if isinstance(policy, RankingPolicy) else 1.0
        kept_queries = policy.queries(geometry) if isinstance(policy, RankingPolicy) else 0
        assert ranking or refresh == 0

        def head(keep: Keep, length: int) -> NaiveHead | NaiveHeadKV:
            if isinstance(policy, HeadKV):
                return NaiveHeadKV(policy, geometry, length, rounded)
            return NaiveHead(keep, policy, geometry.columns, refresh, fade, kept_queries, rounded)

        self.heads = [
            [[head(keep, length) for keep in policy.keeps(geometry, length)[layer]] for length in prompts]
            for layer in range(geometry.layers)
        ]
        self.row = 0

    def closest(self) -> float:
        heads = (head for layer in self.heads for row in layer for head in row)
        return min((head.closest for head in heads if isinstance(head, NaiveHead)), default=1.0)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """One token of the row `self.row`."""
        q, k, v = split_heads(qkv, self.kv_heads)
        output = []
        for head, own in enumerate(self.heads[layer][self.row]):
            group = q.shape[2] // k.shape[2]
            own.come(k[0, 0, head], v[0, 0, head])
            output.append(own.answer(q[0, 0, head * group : (head + 1) * group]))
        return torch.cat(output)[None, None]


class NaivePrompt:
    """A prompt's tokens of the row `cache.row`: causal attention over everything, and nothing is scored."""

    def __init__(self, cache: NaiveCache) -> None:
        self.cache = cache

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.cache.kv_heads)
        tokens, group = q.shape[1], q.shape[2] // k.shape[2]
        output = torch.empty_like(q)
        for head, own in enumerate(self.cache.heads[layer][self.cache.row]):
            own.remember(k[0, :, head], v[0, :, head])
            for at in range(tokens):
                for query in range(head * group, (head + 1) * group):
                    logits = k[0, : at + 1, head] @ q[0, at, query] / q.shape[-1] ** 0.5
                    output[0, at, query] = logits.softmax(-1) @ v[0, : at + 1, head]
        return output


@torch.inference_mode()
def naive_tokens(
    model: ImageModel,
    policy: Policy,
    rows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    rounded: Rounding = as_it_is,
) -> tuple[Tensor, float]:
    """What `generate` should draw: int64 [images, grid tokens]; rows as `prompt_rows` orders them.

    rounded: how keys and values are kept.
    And the least share by which two tokens differed of which one had to leave before the other: where that is but
    rounding, another drawing may be as right."""
    geometry = model.geometry
    policy = policy.fit(model)
    model.decoder.rope.reserve(4096, model.device, model.dtype)
    cache = NaiveCache(model, policy, [len(ids) for ids in rows], rounded)
    for row, ids in enumerate(rows):
        cache.row = row
        x = model.embed_text(torch.tensor([ids[:-1]]))
        model.decoder(x, torch.arange(len(ids) - 1)[None], NaivePrompt(cache))
    uniform = streams(seeds, geometry.tokens)
    x = model.embed_text(torch.tensor([ids[-1:] for ids in rows]))
    tokens = []
    for at in range(geometry.tokens):
        logits = []
        for row, ids in enumerate(rows):
            cache.row = row
            hidden = model.decoder(x[row : row + 1], torch.tensor([[len(ids) - 1 + at]]), cache)
            logits.append(model.image_logits(hidden[:, 0]))
        token = sampling.next_tokens(torch.cat(logits), uniform[:, at])
        tokens.append(token)
        x = model.embed_image(token)[:, None]
        x = torch.cat([x, x]) if sampling.guided else x
    return torch.stack(tokens, 1), cache.closest()
