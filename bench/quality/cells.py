"""What is measured of a method on a batch of prompts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import mean_squared_error, structural_similarity
from torch import Tensor

import ssd_core
from ssd_core.evaluate.fidelity import agreement, divergence, forced_logits, surprise
from ssd_core.evaluate.shapes import score
from ssd_core.loop import Result
from ssd_core.models.base import ImageModel
from ssd_core.policies import Full, Policy
from ssd_core.prompts import prompt_rows
from ssd_core.sampling import Sampling

from .batches import Batch
from .ways import FULL, Way

AT_ONCE = 16  # pictures decoded together


@dataclass(frozen=True)
class Reference:
    """What the full cache draws of a batch."""

    model: ImageModel
    batch: Batch
    sampling: Sampling
    tokens: Tensor

    @cached_property
    def pictures(self) -> Tensor:
        """float32 [n, height, width, 3] in 0..1."""
        with torch.inference_mode():
            return ssd_core.paint(self.model, self.tokens, AT_ONCE)

    @cached_property
    def logits(self) -> list[Tensor]:
        """What each token was drawn from, float32 [n, codebook]."""
        return list(self.forced(Full()))

    def forced(self, policy: Policy, kv_dtype: str = "auto") -> Iterable[Tensor]:
        """The same with another cache that is fed the same tokens."""
        rows = prompt_rows(self.model, self.batch.prompts, 1, None, self.sampling)
        return map(self.sampling.guide, forced_logits(self.model, policy, rows, self.tokens, kv_dtype))


class Cells:
    """Measures cells one after the other. What two cells of a batch in a row have in common is worked out once, and
    the full cache's tokens are kept in files."""

    def __init__(self, model: ImageModel, sampling: Sampling, folder: Path, settings: dict[str, Any]) -> None:
        """folder: where the files are. settings: all that decides what the full cache draws, but for the batch."""
        self.model, self.sampling, self.folder, self.settings = model, sampling, folder, settings
        self.draw = lru_cache(maxsize=1)(self._draw)
        self.reference = lru_cache(maxsize=1)(self._reference)

    def measure(self, cell: str, way: Way, batch: Batch) -> dict[str, Any]:
        """What is measured of a cell; raises UserError where the method cannot work at the budget."""
        return {"drawn": self.drawn, "forced": self.forced}[cell](way, batch)

    def drawn(self, way: Way, batch: Batch) -> dict[str, Any]:
        """Whether the pictures are right, how many tokens are the full cache's, what they took."""
        result = self.draw(way, batch)
        verdicts = score(list(result.images.numpy()), batch.prompts).verdicts
        return {
            "tasks": [verdict.task for verdict in verdicts],
            "right": [int(verdict.right) for verdict in verdicts],
            "agreement": short(agreement(result.tokens, self.reference(batch).tokens).tolist()),
            "kv_bytes": result.memory.kv_bytes,
            "kv_bytes_full": result.memory.kv_bytes_full * self.full_itemsize(way) // self.model.dtype.itemsize,
            "bookkeeping_bytes": result.memory.bookkeeping_bytes,
            "peak_bytes": result.memory.peak_bytes,
            "seconds": round(result.timing.prefill + result.timing.decode, 3),
        }

    def forced(self, way: Way, batch: Batch) -> dict[str, Any]:
        """How far the distributions are from the full cache's, how well right pictures are foreseen, and how far the
        pictures are from the full cache's."""
        policy, full, scenes = way.policy(), self.reference(batch), batch.tokens
        pairs = list(zip(full.pictures.numpy(), self.draw(way, batch).images.numpy(), strict=True))
        found = {
            "kl": short(divergence(full.logits, full.forced(policy, way.kv_dtype)).tolist()),
            "squared_error": short(mean_squared_error(one, other) for one, other in pairs),
            "ssim": short(structural_similarity(one, other, channel_axis=2, data_range=1) for one, other in pairs),
        }
        if not getattr(policy, "guided_only", False):
            plain = prompt_rows(self.model, batch.prompts, 1, None, Sampling(1.0))
            foreseen = forced_logits(self.model, policy, plain, scenes, way.kv_dtype)
            found["cross_entropy"] = short(surprise(foreseen, scenes).tolist())
        return found

    def full_itemsize(self, way: Way) -> int:
        """Bytes a number of the full cache that a way is measured against: those of a model in 16 bits for what is kept
        in fewer, because nobody who counts bytes computes in 32."""
        return self.model.dtype.itemsize if way.kv_dtype == "auto" else min(2, self.model.dtype.itemsize)

    def _draw(self, way: Way, batch: Batch) -> Result:
        guidance, kv_dtype = self.sampling.guidance, way.kv_dtype
        result = ssd_core.generate(
            self.model, batch.prompts, way.policy(), seed=batch.seed, guidance=guidance, kv_dtype=kv_dtype
        )
        if way.full:
            self.folder.mkdir(parents=True, exist_ok=True)
            np.save(self._file(batch), result.tokens.numpy().astype(np.int16))
        return result

    def _reference(self, batch: Batch) -> Reference:
        if not self._file(batch).exists():
            self.draw(FULL, batch)
        tokens = torch.from_numpy(np.load(self._file(batch)).astype(np.int64))
        return Reference(self.model, batch, self.sampling, tokens)

    def _file(self, batch: Batch) -> Path:
        about = json.dumps([self.settings, batch.seed, batch.captions], sort_keys=True)
        return self.folder / f"{batch.seed:05}-{zlib.crc32(about.encode()):08x}.npy"


def short(values: Iterable[float]) -> list[float]:
    """The values in as many digits as are worth keeping."""
    return [float(f"{value:.5g}") for value in values]
