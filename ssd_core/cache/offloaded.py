"""Slots that keep in the host's memory what they drop, so that it may come back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..policies.base import Keep, View
from .ranked import RankedSlots, Ranking
from .storage import Storage


class OffloadedSlots(RankedSlots):
    """Slots whose policy chooses at each ranking among all tokens that came, of which the host's memory has a copy.

    A token goes to the host once: with its prompt, or at the first ranking after it came. A ranking brings the values
    of all of them back, those of these slots' pairs alone, ranks them by as many pairs at once as take no more room
    than a ranking of the slots, and overwrites the slots with the chosen ones; their keys follow when the values are
    given back. So the device holds one layer's values besides, for a moment, and nothing moves between two rankings.
    Nobody waits for a copy: all of them stand in the device's own order, and the processor never looks at one.

    host: of each part of the storage the tokens that are not pinned, [2, T, n, ...] as they are stored, in pages that a
        CUDA device reads by itself. Tokens come first, so that what is copied either way lies in one piece.
    """

    def __init__(self, whole: int, ranking: Ranking, keep: Keep, storage: Storage, dtype: torch.dtype) -> None:
        """whole: tokens that come in all, the prompt's included."""
        super().__init__(ranking, keep, storage, dtype)
        tokens, pairs = whole - keep.pinned, self.kv.shape[1]
        self.host = [host_tensor(part, (2, tokens, pairs, part.shape[-1])) for part in storage.parts]
        self.at_once = max(1, pairs * keep.slots // tokens)  # pairs that are ranked together

    @property
    def host_bytes(self) -> int:
        return sum(part.nbytes for part in self.host)

    def fill(self, keys: Tensor, values: Tensor) -> None:
        super().fill(keys, values)
        pinned = self.keep.pinned
        if self.prompted > pinned:
            for half, came in enumerate((keys, values)):
                self.to_host(half, 0, self.storage.pack(came[:, pinned:]))

    def rank(self) -> None:
        """Choose anew which of all tokens are held, and whose slots the next ones take."""
        # Some steps are skipped when a drawing is planned: the last ranking is the largest, and is made at the last.
        first = max(self.keep.slots, self.prompted)
        tokens = self.stored - (self.stored - first) % self.ranking.refresh - self.keep.pinned
        # those that came since the last ranking stand in the last slots
        new = self.ranking.refresh if self.ranked else first - max(self.prompted, self.keep.pinned)
        for half in (0, 1):
            came = [part[half, :, self.keep.slots - new :] for part in self.storage.parts]
            self.to_host(half, tokens - new, came)
        values = self.from_host(1, tokens)
        kept = torch.cat([self.best(view) for view in self.views(values)])
        self.hold(1, values, kept)
        del values
        self.hold(0, self.from_host(0, tokens), kept)
        self.position[:, self.keep.pinned :] = kept + self.keep.pinned
        self.ranked, self.taken = True, 0

    def to_host(self, half: int, first: int, parts: Sequence[Tensor]) -> None:
        """Copy keys (half 0) or values (1), parts [n, T, ...], to the places of tokens from `first` on."""
        for host, part in zip(self.host, parts, strict=True):
            host[half, first : first + part.shape[1]].copy_(part.transpose(0, 1).contiguous(), non_blocking=True)

    def from_host(self, half: int, tokens: int) -> list[Tensor]:
        """The first so many tokens' keys (half 0) or values (1) on the device, parts [T, n, ...]."""
        return [part[half, :tokens].to(self.kv.device, non_blocking=True, copy=True) for part in self.host]

    def views(self, values: Sequence[Tensor]) -> Iterator[View]:
        """All tokens as the policy may look at them, some pairs at a time. values: parts [T, n, ...]."""
        tokens, first = len(values[0]), self.keep.pinned
        position = torch.arange(first, first + tokens, dtype=torch.int32, device=self.kv.device)
        for parts in zip(*(part.split(self.at_once, 1) for part in values), strict=True):
            some = self.storage.unpack(parts).transpose(0, 1)
            yield View(
                position=position.expand(len(some), -1),
                score=self.score[: len(some)],
                keys=some[:, :0],
                values=some,
                queries=self.queries[: len(some)],
                newest=first + tokens - 1,
                pinned=first,
                slots=self.keep.slots,
                columns=self.ranking.columns,
                role=self.keep.role,
            )

    def best(self, view: View) -> Tensor:
        """int64 [n, free slots]: which tokens of a view are held, as they stand in the slots: those that leave next
        last, lowest first."""
        free = self.keep.slots - self.keep.pinned
        return self.order(view).topk(free, 1, sorted=True).indices.flip(1).roll(-self.ranking.refresh, 1)

    def hold(self, half: int, parts: Sequence[Tensor], kept: Tensor) -> None:
        """Overwrite all keys (half 0) or values (1) that are not pinned with those `kept`, int64 [n, free slots], of
        all tokens', parts [T, n, ...]."""
        pairs = len(kept)
        rows = (kept * pairs + torch.arange(pairs, device=kept.device)[:, None]).flatten()
        for stored, part in zip(self.storage.parts, parts, strict=True):
            chosen = part.view(-1, part.shape[-1]).index_select(0, rows)
            stored[half, :, self.keep.pinned :] = chosen.view(pairs, -1, part.shape[-1])


def host_tensor(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Uninitialised memory of the host for what a device's tensor holds; for planning, none."""
    device = like.device if like.is_meta else "cpu"
    return torch.empty(*shape, dtype=like.dtype, device=device, pin_memory=like.is_cuda)
