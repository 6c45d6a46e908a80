"""The prompts, in batches that stay the same however many of them are drawn."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, takewhile

import numpy as np
import torch
from torch import Tensor

from ssd_core.evaluate.scenes import GRID, Scene
from ssd_core.evaluate.shapes import held_out_scenes
from ssd_core.models.base import ImageModel
from train import codes

BLOCK = 600  # prompts that are put into batches together


@dataclass(frozen=True)
class Batch:
    """Prompts that are drawn together, image k with seed + k, each with a scene that shows it."""

    seed: int
    scenes: tuple[Scene, ...]

    @property
    def prompts(self) -> list[str]:
        return [scene.caption for scene in self.scenes]

    @property
    def captions(self) -> int:
        """A number that changes when a prompt does."""
        return zlib.crc32("\n".join(self.prompts).encode())

    @property
    def tokens(self) -> Tensor:
        """The tokens of the scenes, those the embedded model was trained to draw them with: int64 [n, 576]."""
        return torch.from_numpy(np.stack([codes.encode(scene).reshape(GRID * GRID) for scene in self.scenes]))


def batches(model: ImageModel, prompts: int, size: int) -> list[Batch]:
    """The first batches, which hold that many prompts at least.

    A batch's prompts are equally long, which are drawn fastest. The order mixes lengths, so that the first batches
    stand for all.
    """
    blocks = -(-prompts // BLOCK)
    scenes = held_out_scenes(blocks * BLOCK)
    groups = [
        group
        for block in range(blocks)
        for group in _batches_of(model, scenes[block * BLOCK : (block + 1) * BLOCK], size)
    ]
    seeds = takewhile(lambda seed: seed < prompts, accumulate(map(len, groups), initial=0))
    return [Batch(seed, group) for seed, group in zip(seeds, groups, strict=False)]


def _batches_of(model: ImageModel, scenes: list[Scene], size: int) -> Iterator[tuple[Scene, ...]]:
    of_length: dict[int, list[Scene]] = {}
    for scene in scenes:
        of_length.setdefault(len(model.encode(scene.caption)), []).append(scene)
    found = [tuple(alike[at : at + size]) for alike in of_length.values() for at in range(0, len(alike), size)]
    random.Random(0).shuffle(found)
    yield from found
