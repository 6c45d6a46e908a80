"""Which (row, kv head) pairs keep alike, and the order in which a step's tensors are brought for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.base import Geometry
from ..policies.base import Keep, Policy


@dataclass(frozen=True)
class Alike:
    """Pairs of one layer that keep alike, of rows with prompts of `prompt` tokens.

    pairs: row * kv_heads + head of each, ascending.
    """

    keep: Keep
    prompt: int
    pairs: tuple[int, ...]


def group_pairs(policy: Policy, geometry: Geometry, prompts: Sequence[int]) -> Iterator[list[Alike]]:
    """For each layer, its (row, kv head) pairs grouped by how they keep. `prompts` holds each row's prompt length.

    A row's slots depend on its own prompt alone, never on the batch around it, so a picture is the same in any batch.
    """
    of_length = {length: policy.keeps(geometry, length) for length in sorted(set(prompts))}
    rows_of = {length: [row for row, own in enumerate(prompts) if own == length] for length in of_length}
    for layer in range(geometry.layers):
        groups = []
        for length, keeps in of_length.items():
            for keep in sorted(set(keeps[layer]), key=lambda keep: (keep.slots, keep.role)):
                heads = [head for head, own in enumerate(keeps[layer]) if own == keep]
                pairs = tuple(row * geometry.kv_heads + head for row in rows_of[length] for head in heads)
                groups.append(Alike(keep, length, pairs))
        yield groups


class Room:
    """Room for one layer's step, which all layers share: what is gathered for the pairs, what is read of `widest` slots
    that hold another precision, and the answers."""

    def __init__(
        self, rows: int, geometry: Geometry, widest: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        heads, kv_heads, dim = geometry.heads, geometry.kv_heads, geometry.head_dim
        self.there = torch.empty(rows * (heads + 2 * kv_heads), dim, dtype=dtype, device=device)
        self.read = torch.empty(widest, dim, dtype=dtype, device=device)
        self.back = torch.empty(rows * kv_heads, heads // kv_heads, dim, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return self.there.nbytes + self.read.nbytes + self.back.nbytes


class Order:
    """The order in which a layer's pairs stand in its slots: group by group. One gather brings a step's queries, keys
    and values into it, and one brings the answers back.

    groups: of each group's n pairs, the queries [n, G, D], keys and values [2, n, D], and room for answers [n, G, D].
    """

    def __init__(self, groups: Sequence[Alike], geometry: Geometry, room: Room, planned: bool = True) -> None:
        """planned: whether the groups are those that were planned. Groups that came of what was seen always have a way
        back, so that a plan can count it."""
        heads, kv_heads, dim = geometry.heads, geometry.kv_heads, geometry.head_dim
        shared = torch.arange(heads // kv_heads)  # the query heads of a key-value head
        there, pairs = [], []
        for group in groups:
            own = torch.tensor(group.pairs)
            row, head = own // kv_heads, own % kv_heads
            first = row * (heads + 2 * kv_heads)  # each row's first query
            q = first[:, None] + head[:, None] * len(shared) + shared
            k = first + heads + head
            there += [q.flatten(), k, k + kv_heads]
            pairs.append(own)
        self.there = torch.cat(there).to(room.there.device)
        # one group alone is in order already
        is_straight = planned and len(groups) == 1
        self.back = None if is_straight else torch.cat(pairs).argsort().to(room.back.device)
        self.room, self.shape = room, (-1, 1, heads, dim)
        self.sizes = [size for own in pairs for size in (len(own) * len(shared), 2 * len(own))]
        answers = room.back.split([len(own) for own in pairs])
        self.groups = [(*brought, answer) for brought, answer in zip(self.split(room.there), answers, strict=True)]

    @property
    def nbytes(self) -> int:
        return self.there.nbytes + (0 if self.back is None else self.back.nbytes)

    def split(self, gathered: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What was gathered, by group: queries [n, G, D], keys and values [2, n, D]."""
        dim, parts = gathered.shape[-1], gathered.split(self.sizes)
        group = self.room.back.shape[1]
        return [(q.view(-1, group, dim), kv.view(2, -1, dim)) for q, kv in zip(parts[::2], parts[1::2], strict=True)]

    def gather(self, qkv: Tensor) -> None:
        """Bring a step's [B, 1, heads + 2 * kv_heads, D] to the groups."""
        torch.index_select(qkv.view(-1, qkv.shape[-1]), 0, self.there, out=self.room.there)

    def answers(self) -> Tensor:
        """The groups' answers, [B, 1, heads, D]; overwritten by the next ones where one group alone gives them."""
        answers = self.room.back if self.back is None else self.room.back.index_select(0, self.back)
        return answers.view(self.shape)
