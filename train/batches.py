"""The batches of a training: scenes, their prompts and picture codes, and what is asked of the model about them."""

from __future__ import annotations

import random
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ssd_core.evaluate.scenes import BACKGROUNDS, GRID, Scene, sample

from . import codes, foresight, hindsight, reading
from .questions import UNASKED
from .text import BEGIN

TWINS = 0.25  # share of a batch that draws scenes of the same batch again with pads for a caption, for guidance
# The chance of an image token to be seen where pictures are skimmed: where an object may begin, behind a token of an
# object, and anywhere else.
SKIMMED = (0.5, 0.35, 0.06)
# How often each task is shown: the more, the later it is learned.
SHARES = {"single": 0.5, "two": 0.75, "counting": 1.25, "colours": 1.0, "position": 1.75, "attributes": 0.75}
LIGHTER = 4  # about how many skimmed pictures cost as much as a whole one


class Captions:
    """Turns captions into prompt ids once each: the template and the pads of the unconditional prompt."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.pad = tokenizer.pad_token_id
        self.tokenizer = tokenizer
        self.begin = tokenizer.convert_tokens_to_ids(BEGIN)
        self.known: dict[str, list[int]] = {}

    def ids(self, caption: str) -> list[int]:
        if caption not in self.known:
            prompt = self.tokenizer(f"<|User|>: {caption}\n\n<|Assistant|>:").input_ids
            self.known[caption] = [*prompt, self.begin]
        return self.known[caption]

    def without(self, caption: str) -> list[int]:
        """The unconditional prompt of the caption's length."""
        ids = self.ids(caption)
        return [ids[0], *[self.pad] * (len(ids) - 2), ids[-1]]


class Batch(NamedTuple):
    """B pictures of which K tokens are asked each; the last rows are twins of the first. Pads are UNASKED."""

    ids: Tensor  # prompts, int64 [B, P], padded on the right
    lengths: Tensor  # of the prompts, [B]
    at: Tensor  # which tokens of the picture are asked, [B, K]: rising, the first one always 0
    before: Tensor  # the code before each but the first, [B, K - 1]
    codes: Tensor  # what they are, [B, K]
    free: Tensor  # bool [B, K]: where an object could begin, if it began with background to the left and above
    ahead: Tensor  # what lies ahead of them, [B, K, 7]
    behind: Tensor  # what began before them, [B, K, 3]
    asked: Tensor  # what the captions ask for, [B, 7]

    def to(self, device: str) -> Batch:
        return Batch(*(part.to(device) for part in self))


def batch(step: int, size: int, captions: Captions, *, skim: bool) -> Batch:
    """The batch of a step, the same whenever it is asked for: whole pictures, or with `skim` about a fifth of each.

    Most of a picture's tokens teach nothing: background after background. A skimmed picture leaves most of them out,
    also from what the others can attend to; every token keeps the position it has in the whole. What is left out
    depends on the token's place and on the code before it, never on what is to be told from it.
    """
    rng = random.Random(step)
    twins = twins_of(size)
    scenes = [scene_to_train(rng) for _ in range(size - twins)]
    prompts = [captions.ids(scene.caption) for scene in scenes]
    prompts += [captions.without(scene.caption) for scene in scenes[:twins]]
    asked = [reading.targets(scene.caption) for scene in scenes] + [reading.targets("")] * twins
    width = max(map(len, prompts))
    pictures = [codes.encode(scene) for scene in scenes]
    around = [
        np.concatenate([side.targets(scene, picture) for side in (foresight, hindsight)], 1)
        for scene, picture in zip(scenes, pictures, strict=True)
    ]
    whole = np.stack(pictures + pictures[:twins]).reshape(size, -1)
    seen = np.full(whole.shape, True)
    if skim:
        seen = skimmed(whole, np.random.default_rng(step))
        seen[-twins:] = seen[:twins]
    counts = seen.sum(1)
    at = np.argsort(~seen, axis=1, kind="stable")[:, : counts.max()]
    pads = np.arange(at.shape[1]) >= counts[:, None]
    own = np.take_along_axis(whole, at, 1)
    own[pads] = UNASKED
    around_own = np.take_along_axis(np.stack(around + around[:twins]), at[:, :, None], 1)
    around_own[pads] = UNASKED
    ahead, behind = torch.from_numpy(around_own).split([len(foresight.CLASSES), len(hindsight.CLASSES)], -1)
    return Batch(
        ids=torch.tensor([prompt + [captions.pad] * (width - len(prompt)) for prompt in prompts]),
        lengths=torch.tensor([len(prompt) for prompt in prompts]),
        at=torch.from_numpy(at),
        before=torch.from_numpy(np.take_along_axis(whole, at[:, 1:] - 1, 1)),
        codes=torch.from_numpy(own),
        free=torch.from_numpy(np.take_along_axis(free(whole), at, 1) & ~pads),
        ahead=ahead,
        behind=behind,
        asked=torch.tensor(asked),
    )


def scene_to_train(rng: random.Random) -> Scene:
    """A scene of no combination that is kept for evaluation."""
    return sample(rng, task=rng.choices(list(SHARES), list(SHARES.values()))[0])


def twins_of(size: int) -> int:
    """How many rows of a batch are twins."""
    return max(1, round(TWINS * size))


def skimmed(pictures: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which tokens of the pictures [B, 576] are seen: bool [B, 576]."""
    behind_object = np.roll(pictures >= len(BACKGROUNDS), 1, axis=1)
    at_place, by_object, elsewhere = SKIMMED
    seen = rng.random(pictures.shape) < np.where(places(), at_place, np.where(behind_object, by_object, elsewhere))
    seen[:, 0] = True
    return seen


def free(pictures: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where an object could begin, if it began at a cell with background to the left and above: bool [B, 576]."""
    ground = np.pad(pictures.reshape(-1, GRID, GRID) < len(BACKGROUNDS), ((0, 0), (1, 0), (1, 0)), constant_values=True)
    return (ground[:, 1:, :-1] & ground[:, :-1, 1:]).reshape(pictures.shape)


@cache
def places() -> NDArray[np.bool_]:
    """Where objects of the scenes begin, the first token of each: bool [576]."""
    rng = random.Random(0)
    found = np.zeros(GRID * GRID, bool)
    for scene in (sample(rng) for _ in range(4000)):
        found[[begin for begin, _ in foresight.begins(scene, codes.encode(scene))]] = True
    return found
