"""The caches a decoder runs over: one for the prompts, one that keeps what each head needs while a picture is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import UserError
from ..models.base import Geometry
from ..models.decoder import split_heads
from ..policies.base import Keep, Policy, RankingPolicy
from .diagonal import DiagonalSlots
from .pairs import Alike, Order, Room, group_pairs
from .ranked import RankedSlots, Ranking
from .slots import Slots
from .storage import KV_DTYPES, QuantizedStorage, Storage


class PromptCache:
    """Runs prompts of one length through the decoder and keeps their keys and values, [m, T, kv_heads, D] a layer."""

    def __init__(self, kv_heads: int) -> None:
        self.kv_heads = kv_heads
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        q, k, v = split_heads(qkv, self.kv_heads)
        # copies: k and v are views of the fused projection, which would keep the queries alive with them
        self.keys.append(k.clone())
        self.values.append(v.clone())
        group = q.shape[2] // k.shape[2]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        if group > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


class SlotCache:
    """The slots of every layer, for a batch of rows that draw together, one token a step."""

    def __init__(
        self,
        policy: Policy,
        geometry: Geometry,
        prompts: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        kv_dtype: str = "auto",
    ) -> None:
        """prompts: the prompt length of each row, begin-of-image token included.
        kv_dtype: what keys and values are kept in, see KV_DTYPES; "auto" is `dtype`."""
        self.groups = list(group_pairs(policy, geometry, prompts))
        ranking = None
        if isinstance(policy, RankingPolicy):
            ranking = Ranking.of(policy, geometry)
        kind = KV_DTYPES[kv_dtype]
        widest = max(group.count * group.keep.slots for groups in self.groups for group in groups) if kind else 0
        room = Room(len(prompts), geometry, widest, dtype, device)

        def slots_for(group: Alike) -> Slots:
            size = (group.count, group.keep.slots, geometry.head_dim, dtype, device)
            storage = QuantizedStorage(kind, room.read, *size) if kind else Storage(*size)
            if group.keep.attended:
                return DiagonalSlots(group.keep, storage, dtype)
            if ranking is None or not group.keep.ranked:
                return Slots(group.keep, storage)
            check_refresh_fits(group.keep, ranking.refresh, geometry.cached_tokens(group.prompt))
            return RankedSlots(ranking, group.keep, storage, dtype)

        self.layers = [[slots_for(group) for group in groups] for groups in self.groups]
        # layers whose heads are grouped alike share one order
        orders = {tuple(groups): Order(groups, geometry, room) for groups in self.groups}
        self.orders = [orders[tuple(groups)] for groups in self.groups]

    def fill(self, length: int, prompts: PromptCache, prompt_of_row: dict[int, int]) -> None:
        """Give the rows with prompts of `length` tokens their prompt's keys and values.

        prompt_of_row: which of the prompts each of these rows has."""
        for layer, groups in enumerate(self.groups):
            for group, slots in zip(groups, self.layers[layer], strict=True):
                if group.prompt == length:
                    which = torch.tensor([prompt_of_row[row] for row in group.rows])[:, None]
                    heads = torch.tensor(group.heads)
                    # [rows, heads, T, D] -> [pairs, T, D]
                    keys = prompts.keys[layer].transpose(1, 2)[which, heads].flatten(0, 1)
                    values = prompts.values[layer].transpose(1, 2)[which, heads].flatten(0, 1)
                    slots.fill(keys, values)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """One token of every row: [B, 1, heads + 2 * kv_heads, D] -> [B, 1, heads, D]."""
        order = self.orders[layer]
        order.gather(qkv)
        for slots, group in zip(self.layers[layer], order.groups, strict=True):
            slots.attend(*group)
        return order.answers()

    def skip(self, tokens: int) -> None:
        """Act as if so many more tokens had come; for planning the last step without the ones before it."""
        for layer in self.layers:
            for slots in layer:
                slots.stored += tokens

    def free(self) -> None:
        """Give back all slots, even while a traceback still holds the cache."""
        self.layers, self.orders = [], []

    @property
    def kv_bytes(self) -> int:
        """Bytes of keys and values, and of their scales where they have some."""
        return sum(slots.kv_bytes for layer in self.layers for slots in layer)

    def filled_bytes(self, more: int) -> int:
        """Bytes of keys and values in filled slots once `more` tokens have come; the other slots are still empty."""
        return sum(slots.filled_bytes(more) for layer in self.layers for slots in layer)

    @property
    def bookkeeping_bytes(self) -> int:
        """Bytes of positions, attention scores, orders and the room for a step."""
        orders = sum(order.nbytes for order in set(self.orders))
        return (
            self.orders[0].room.nbytes
            + orders
            + sum(slots.bookkeeping_bytes for layer in self.layers for slots in layer)
        )


def check_refresh_fits(keep: Keep, refresh: int, whole: int) -> None:
    """Refuse a refresh that would choose more tokens than a head may drop; `whole` is what a full cache holds."""
    droppable = keep.slots - keep.pinned
    if keep.slots < whole and refresh > droppable:
        raise UserError(
            f"A refresh every {refresh} tokens needs {refresh} tokens to drop, but a {keep.role} head with "
            f"{keep.slots} slots, {keep.pinned} of them pinned, has {droppable}; raise the budget or lower refresh."
        )
