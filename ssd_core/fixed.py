"""Steps over slots that no longer move, with a kernel for attention where there is one."""

from __future__ import annotations

from .cache.cache import SlotCache
from .cache.decoder_cache import decoder_cache_for
from .cache.fixed import FixedCache
from .cache.kernel_cache import kernel_cache_for
from .cache.masked import MaskedCache
from .models.decoder import Decoder
from .turn import Step, Turn


class FixedStep(Step):
    """Turn by turn. While slots grow, until a policy has planned anew, turns are plain ones."""

    def __init__(self, turn: Turn, cache: SlotCache, told: str = "kernel") -> None:
        super().__init__(turn, cache, told)
        self.fixed: FixedCache | None = None

    def __call__(self, most: int = 1) -> int:
        if self.cache.grows:
            self.turn.draw(self.cache)
            return 1
        if self.fixed is None:
            self.fixed = self.begin()
        return self.draw(self.fixed, most)

    def begin(self) -> FixedCache:
        """The slots, once they no longer move."""
        return fixed_cache(self.turn.model.decoder, self.cache, self.turn.sampling.rows_of_image)

    def draw(self, fixed: FixedCache, most: int) -> int:
        """Draw as many tokens of every picture as are made at once, `most` at most; how many."""
        fixed.advance()
        self.turn.draw(fixed)
        return 1


def fixed_cache(decoder: Decoder, cache: SlotCache, rows_of_image: int) -> FixedCache:
    """The slots for steps of this decoder: with the kernel that does the most of those that work."""
    return decoder_cache_for(decoder, cache, rows_of_image) or kernel_cache_for(cache) or MaskedCache(cache)
