from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.base import Geometry
from .base import Keep, Policy, uniform


@dataclass(frozen=True)
class Full(Policy):
    """Every head keeps every token: the reference the others are measured against."""

    def keeps(self, geometry: Geometry, prompt: int) -> Sequence[Sequence[Keep]]:
        return uniform(Keep(geometry.cached_tokens(prompt), pinned=prompt), geometry)
