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

    def __call__(self) -> None:
        if self.cache.grows:
            self.turn.draw(self.cache)
            return
        if self.fixed is None:
            self.fixed = self.begin()
        self.fixed.advance()
        self.draw(self.fixed)

    def begin(self) -> FixedCache:
        """The slots, once they no longer move."""
        return fixed_cache(self.turn.model.decoder, self.cache)

    def draw(self, fixed: FixedCache) -> None:
        """Draw a token of every picture."""
        self.turn.draw(fixed)


def fixed_cache(decoder: Decoder, cache: SlotCache) -> FixedCache:
    """The slots for steps of this decoder: with the kernel that does the most of those that work."""
    return decoder_cache_for(decoder, cache) or kernel_cache_for(cache) or MaskedCache(cache)
