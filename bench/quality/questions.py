"""What SSD's paper leaves open and no option of ours answers, as methods that only bench.quality knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ssd_core.models.base import Geometry
from ssd_core.policies import SSD, Keep, Policy, View
from ssd_core.policies.base import uniform

TYPED_AFTER = 4  # rows of the picture


@dataclass(frozen=True)
class SharedScores(SSD):
    """SSD whose two guidance rows of a picture keep the same tokens: those that both together attended most.

    For drawings with guidance alone, whose rows are equally long. The conditional pairs come first, then the
    unconditional ones in the same order; as both drop the same tokens, these always stand in the same slots.
    """

    guided_only: ClassVar[bool] = True

    def priority(self, view: View) -> Tensor:
        both: Tensor = super().priority(view).view(2, -1, view.position.shape[1]).mean(0)
        return both.repeat(2, 1)


@dataclass(frozen=True)
class OnlineTypes(SSD):
    """SSD whose rows type their own heads, once, instead of reading the types off a map.

    All heads keep everything for four rows. Then a head is semantic if its last row of queries gave more than `tau` of
    their attention to image tokens outside the neighbourhood. Heads get the slots that the map would give to their
    type, so that where other heads are semantic than in the map the mean is another than the budget.
    """

    contents: ClassVar[bool] = True

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        grown = self.replan_at(geometry, prompt)
        return uniform(Keep(grown, prompt, ranked=True, role="untyped"), geometry)

    def replan_at(self, geometry: Geometry, prompt: int) -> int:
        return prompt + TYPED_AFTER * geometry.columns

    def choices(self, geometry: Geometry, prompt: int) -> Sequence[Keep]:
        of_map = {keep for layer in super().keeps(geometry, prompt) for keep in layer}
        return sorted(of_map, key=lambda keep: keep.slots)

    def queries(self, geometry: Geometry) -> int:
        return geometry.columns

    def choose(self, view: View) -> Tensor:
        keys, at = view.keys[:, view.pinned :], view.position[:, view.pinned :]
        asking = torch.arange(view.newest - view.queries.shape[1] + 1, view.newest + 1, device=at.device)
        age = asking[:, None] - at[:, None]  # [n, Q, tokens]
        logits = torch.einsum("nqgd,nsd->ngqs", view.queries, keys) * keys.shape[-1] ** -0.5
        weights = logits.masked_fill_((age < 0)[:, None], -torch.inf).softmax(-1)
        outside = (weights * (age >= view.columns + 2)[:, None]).sum(-1).mean((1, 2))
        return (outside > self.tau).long()


QUESTIONS: dict[str, type[Policy]] = {"ssd-shared": SharedScores, "ssd-online": OnlineTypes}
