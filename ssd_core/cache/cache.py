"""The caches a decoder runs over: one for the prompts, one that keeps what each head needs while a picture is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ..errors import UserError
from ..models.base import Geometry
from ..models.decoder import split_heads
from ..policies.base import Keep, Policy, RankingPolicy
from .diagonal import DiagonalSlots
from .growing import GrowingSlots, choices_of, is_due
from .offloaded import OffloadedSlots
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
        self.policy, self.geometry, self.dtype, self.device = policy, geometry, dtype, device
        self.kind = KV_DTYPES[kv_dtype]
        self.ranking = Ranking.of(policy, geometry) if isinstance(policy, RankingPolicy) else None
        self.groups = list(group_pairs(policy, geometry, prompts))
        widest = max(map(self.widest, chain(*self.groups))) if self.kind else 0
        room = Room(len(prompts), geometry, widest, dtype, device)
        # layers whose heads are grouped alike share one order
        orders = {tuple(groups): Order(groups, geometry, room) for groups in self.groups}
        self.orders = [orders[tuple(groups)] for groups in self.groups]
        self.layers = [[self.first_slots(group) for group in groups] for groups in self.groups]
        self.grows = any(isinstance(slots, GrowingSlots) for slots in self.layers[0])
        self.replanned = False  # for all rows

    def keeps_of(self, group: Alike) -> Sequence[Keep]:
        """How its pairs may keep, once the policy has planned anew if it does."""
        policy = self.ranking.policy if self.ranking else None
        if policy is None or policy.replan_at(self.geometry, group.prompt) is None:
            return [group.keep]
        return policy.choices(self.geometry, group.prompt)

    def widest(self, group: Alike) -> int:
        """The most slots that its pairs have together at any time."""
        return len(group.pairs) * max(keep.slots for keep in (group.keep, *self.keeps_of(group)))

    def storage_for(self, keep: Keep, pairs: int) -> Storage:
        size = (pairs, keep.slots, self.geometry.head_dim, self.dtype, self.device)
        return QuantizedStorage(self.kind, self.orders[0].room.read, *size) if self.kind else Storage(*size)

    def slots_for(self, keep: Keep, pairs: int) -> Slots:
        storage = self.storage_for(keep, pairs)
        if keep.attended:
            return DiagonalSlots(keep, storage, self.dtype)
        if self.ranking is None or not keep.ranked:
            return Slots(keep, storage)
        return RankedSlots(self.ranking, keep, storage, self.dtype)

    def first_slots(self, group: Alike) -> Slots:
        """The slots of pairs of which nothing was seen yet."""
        if self.ranking is None:
            return self.slots_for(group.keep, len(group.pairs))
        keeps = self.keeps_of(group)
        for keep in keeps:
            check_refresh_fits(keep, self.ranking.refresh, self.geometry.cached_tokens(group.prompt))
        if self.ranking.policy.replan_at(self.geometry, group.prompt) is not None:
            storage = self.storage_for(group.keep, len(group.pairs))
            return GrowingSlots(keeps, self.ranking, group.keep, storage, self.dtype)
        whole = self.geometry.cached_tokens(group.prompt)
        if self.ranking.policy.recalls and group.keep.ranked and group.keep.slots < whole:
            storage = self.storage_for(group.keep, len(group.pairs))
            return OffloadedSlots(whole, self.ranking, group.keep, storage, self.dtype)
        return self.slots_for(group.keep, len(group.pairs))

    def fill(self, length: int, prompts: PromptCache, prompt_of_row: dict[int, int]) -> None:
        """Give the rows with prompts of `length` tokens their prompt's keys and values.

        prompt_of_row: which of the prompts each of these rows has."""
        for layer, groups in enumerate(self.groups):
            for group, slots in zip(groups, self.layers[layer], strict=True):
                if group.prompt == length:
                    rows, heads = zip(*(divmod(pair, self.geometry.kv_heads) for pair in group.pairs), strict=True)
                    which = [prompt_of_row[row] for row in rows]
                    # [m, T, kv_heads, D] -> [pairs, T, D]
                    keys = prompts.keys[layer].transpose(1, 2)[which, heads]
                    values = prompts.values[layer].transpose(1, 2)[which, heads]
                    slots.fill(keys, values)

    def replan(self) -> bool:
        """Let the policy plan anew for the rows whose time has come, and move their tokens into slots of the kinds that
        it chooses; whether there were any such rows. Comes before each step."""
        if not self.grows or not any(map(is_due, self.layers[0])):
            return False
        chosen = choices_of([slots for layer in self.layers for slots in layer if is_due(slots)])
        for layer in range(len(self.layers)):
            self.part(layer, chosen)
        self.grows = any(isinstance(slots, GrowingSlots) for slots in self.layers[0])
        self.replanned = not self.grows
        return True

    def part(self, layer: int, chosen: Iterator[list[int]]) -> None:
        """Move the tokens of a layer's pairs, the old slots of which are given back before the next layer's turn.

        chosen: for each group whose time has come, which choice each of its pairs follows."""
        groups: list[Alike] = []
        moved: list[Slots] = []
        for group, slots in zip(self.groups[layer], self.layers[layer], strict=True):
            if is_due(slots):
                of_pair = next(chosen)
                for choice, keep in enumerate(slots.choices):
                    places = [place for place, own in enumerate(of_pair) if own == choice]
                    if places:
                        groups.append(Alike(keep, group.prompt, tuple(group.pairs[place] for place in places)))
                        moved.append(self.slots_for(keep, len(places)))
                        slots.hand_over(torch.tensor(places, device=self.device), moved[-1])
            else:
                groups.append(group)
                moved.append(slots)
        self.groups[layer], self.layers[layer] = groups, moved
        self.orders[layer] = Order(groups, self.geometry, self.orders[layer].room, planned=False)

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """One token of every row: [B, 1, heads + 2 * kv_heads, D] -> [B, 1, heads, D]."""
        if self.grows and layer == 0:
            self.replan()
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

    @property
    def host_bytes(self) -> int:
        """Bytes of tokens that the host's memory keeps."""
        return sum(slots.host_bytes for layer in self.layers for slots in layer)

    @property
    def bytes(self) -> int:
        """All that is held from step to step, but for what the host's memory keeps."""
        return self.kv_bytes + self.bookkeeping_bytes

    def filled_bytes(self, fed: int) -> int:
        """Bytes of keys and values in filled slots once so many tokens have come after the prompts' own, or when they
        had; the other slots are still empty."""
        return sum(
            slots.filled_bytes(group.prompt - 1 + fed)
            for groups, layer in zip(self.groups, self.layers, strict=True)
            for group, slots in zip(groups, layer, strict=True)
        )

    def slots_of_first_row(self, attended: bool = False) -> list[list[int]]:
        """How many tokens each head of the first row holds, or attends, at most, [layers][kv_heads]."""
        kv_heads = self.geometry.kv_heads
        counts = [[0] * kv_heads for _ in self.layers]
        for own, groups in zip(counts, self.groups, strict=True):
            for group in groups:
                for pair in group.pairs:
                    if pair < kv_heads:
                        own[pair] = (attended and group.keep.attended) or group.keep.slots
        return counts

    def replans(self) -> list[int]:
        """Before which of the steps to come rows are planned anew; the next step is 0."""
        growing = [slots for slots in self.layers[0] if isinstance(slots, GrowingSlots)]
        return sorted({slots.keep.slots - slots.stored for slots in growing})

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
    if keep.ranked and keep.slots < whole and refresh > droppable:
        head = f"{keep.role} head".lstrip()
        raise UserError(
            f"A refresh every {refresh} tokens needs {refresh} tokens to drop, but a {head} with "
            f"{keep.slots} slots, {keep.pinned} of them pinned, has {droppable}; raise the budget or lower refresh."
        )
