"""The picture so far, while it is drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ssd_core.loop import paint
from ..ssd_core.models.base import ImageModel
from ..ssd_core.pictures import mosaic, to_pil
from ..ssd_core.tokens import UNDRAWN

# Of the time, at most, beside the first preview. On a processor a small model's picture takes longer to decode than a
# row to draw, and nobody waits twice as long to see every row; a large model on a card has time to show them all.
SHARE = 0.15
LARGEST = 512  # pixels along the longer side
SHOWN = 4  # pictures of a batch; each is decoded anew every time


class Previews:
    """Makes a preview every so many rows, and leaves one out that comes too soon after the last for its SHARE."""

    def __init__(self, model: ImageModel, every: int, kept: Tensor | None, check: Callable[[], object]) -> None:
        """kept: the tokens that stay, as `kept_tokens` gives them. check: as `generate` takes it."""
        self.model, self.every, self.kept, self.check = model, every, kept, check
        self.next = -math.inf  # when the next may be begun

    def after(self, row: int, tokens: Tensor) -> tuple[str, Any, int] | None:
        """What ComfyUI shows once a row is drawn, if it is to show anything; tokens int64 [n, m] so far."""
        begun = time.monotonic()
        if (row + 1) % self.every or begun < self.next:
            return None
        geometry = self.model.geometry
        later = tokens.new_full((len(tokens), geometry.tokens), UNDRAWN) if self.kept is None else self.kept.to(tokens)
        so_far = torch.cat([tokens, later[:, tokens.shape[1] :]], 1)[:SHOWN]
        preview = self.of(paint(self.model, so_far, check=self.check))
        ended = time.monotonic()
        self.next = ended + (ended - begun) * (1 - SHARE) / SHARE
        return preview

    @staticmethod
    def of(images: Tensor) -> tuple[str, Any, int]:
        """What ComfyUI shows of pictures float32 [n, height, width, 3]."""
        return ("JPEG", mosaic(to_pil(images[:SHOWN])), LARGEST)
