"""The engine's two moves: run the prompts once, then one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from .cache.cache import PromptCache, SlotCache
from .cache.decoder_cache import DecoderCache
from .models.base import ImageModel
from .models.decoder import Attend
from .policies import Policy
from .sampling import Sampling

Check = Callable[[], object]
Chunk = TypeVar("Chunk")


def checked(chunks: Iterable[Chunk], check: Check | None) -> Iterator[Chunk]:
    """The chunks, with a call of `check` before each, which raises what is to end the work."""
    for chunk in chunks:
        if check:
            check()
        yield chunk


def prefill(
    model: ImageModel,
    policy: Policy,
    rows: Sequence[Sequence[int]],
    check: Check | None = None,
    kv_dtype: str = "auto",
) -> SlotCache:
    """Run each distinct prompt once, all but its last token, and give every row the slots its policy allows.

    rows: the prompt ids of each row. The last token, begin-of-image, is left to the first step, so that its attention
    is seen by the policy like that of any image token.
    check: called before the prompts of each length; what it raises is passed on.
    kv_dtype: what the slots keep, as `generate` takes it; the prompts are run through the decoder as they are.
    """
    lengths = [len(ids) for ids in rows]
    model.decoder.rope.reserve(max(lengths) + model.geometry.tokens, model.device, model.dtype)
    cache = SlotCache(policy, model.geometry, lengths, model.dtype, model.device, kv_dtype)
    for length in checked(sorted(set(lengths)), check):
        distinct = dict.fromkeys(tuple(ids) for ids in rows if len(ids) == length)
        places = {ids: place for place, ids in enumerate(distinct)}
        prompts = PromptCache(model.geometry.kv_heads)
        embedded = model.embed_text(torch.tensor([ids[:-1] for ids in places]))
        positions = torch.arange(length - 1, device=model.device).expand(len(places), -1)
        model.decoder(embedded, positions, prompts)
        cache.fill(length, prompts, {row: places[tuple(ids)] for row, ids in enumerate(rows) if len(ids) == length})
    return cache


class ImageEmbedder:
    """Turns drawn tokens, int64 [n], into the next step's input, [n, hidden].

    table: all tokens embedded, [codebook, hidden], where there are no more of them than a picture has: that is no more
        work than one picture makes. Else None: Janus-Pro has 16384, and their table would take as much memory as a
        small cache.
    """

    def __init__(self, model: ImageModel) -> None:
        geometry, self.model = model.geometry, model
        self.table: Tensor | None = None
        if geometry.codebook <= geometry.tokens:
            self.table = model.embed_image(torch.arange(geometry.codebook, device=model.device))

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.model.embed_image(tokens) if self.table is None else self.table.index_select(0, tokens)


def next_tokens(
    model: ImageModel, cache: Attend, sampling: Sampling, x: Tensor, positions: Tensor, uniform: Tensor
) -> Tensor:
    """Feed one token a row, as `feed` does, and draw the next: int64 [images]. uniform: as `Sampling` takes it."""
    return sampling.next_tokens(step(model, cache, x, positions), uniform)


def feed(model: ImageModel, cache: Attend, x: Tensor, positions: Tensor) -> Tensor:
    """Feed one token a row, x [rows, hidden] at int64 [rows, 1] -> what the decoder makes of it, [rows, hidden]."""
    if isinstance(cache, DecoderCache):
        return cache.feed(x, positions)
    return model.decoder(x[:, None], positions, cache)[:, 0]


def step(model: ImageModel, cache: Attend, x: Tensor, positions: Tensor) -> Tensor:
    """Feed one token a row, as `feed` does -> float32 logits of the next, [rows, codebook]."""
    return model.image_logits(feed(model, cache, x, positions))
