"""A whole turn in one call, on the processor: where the decoder is one kernel, what follows it is in that, too."""

from __future__ import annotations

import ctypes
import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from .cache.decoder_cache import MATRICES, ROWS, DecoderCache, are_plain, is_watched, order_of, run
from .cache.fixed import FixedCache
from .fixed import FixedStep
from .models import few_rows
from .models.base import ImageModel
from .native.build import WIDE
from .rounding import rounded_up
from .sampling import Sampling
from .turn import Turn

AT_ONCE, LEAST = 0.25, 1e-9  # seconds in which nobody hears of a drawing, and that a clock may not notice
CLOSE = 0.1  # logits around 1 that differ by less came of the same head, in any precision
# of the trial: what filters, and what does not, with and without an unconditional row
TRIED = (Sampling(1.0), Sampling(0.3, 0.7), Sampling(3.0, top_k=7, top_p=0.8), Sampling(2.0, greedy=True))


class SamplingFields(ctypes.Structure):
    """`Sampling` of native/sample.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("images", "codebook", "guided", "greedy", "top_k")),
        *((name, ctypes.c_double) for name in ("guidance", "temperature", "top_p")),
        ("order", ctypes.c_void_p),
    )


class TurnFields(ctypes.Structure):
    """`Turn` of native/turn.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("head", "room", "token", "x", "positions", "at", "tokens", "uniform")),
        *((name, ctypes.c_void_p) for name in ("stays", "embedded")),
        *((name, ctypes.c_int64) for name in ("head_layers", "grid")),
        ("sampling", SamplingFields),
    )


class Ending:
    """What follows when a token of every row has gone through the decoder: the image head, sampling, and what is fed
    next. It knows tensors by their addresses: none may be replaced while this is in use.

    token: what came last, int64 [images].
    address: where all of it stands, for the kernel.
    """

    def __init__(
        self,
        head: Sequence[Any],
        sampling: Sampling,
        table: Tensor | None,
        x: Tensor,
        positions: Tensor,
        at: Tensor,
        tokens: Tensor,
        uniform: Tensor,
        stays: Tensor | None = None,
    ) -> None:
        """head: layers that `is_known_ending` takes. table: as `ImageEmbedder` has it. The other tensors as in `Turn`;
        all of them contiguous."""
        (grid, images), device = uniform.shape, x.device
        layers = [[layer.weight.data_ptr(), address(layer.bias), *layer.weight.shape] for layer in head]
        self.codebook, self.rows = len(head[-1].weight), len(x)
        self.head = torch.tensor(layers, device=device)
        self.token = torch.zeros(images, dtype=torch.int64, device=device)
        # for each row, as in DecoderCache; so many more may be read
        numbers = sum(len(layer.weight) for layer in head)
        self.room = torch.zeros(numbers * (self.rows + WIDE - 1) + WIDE, device=device)
        sorts = sampling.top_k > 0 or sampling.top_p < 1
        self.order = torch.empty(sorts * torch.get_num_threads(), self.codebook, dtype=torch.int32, device=device)
        self.given = head, table, x, positions, at, tokens, uniform, stays  # so that they live as long as this
        own = map(address, (self.head, self.room, self.token, x, positions, at, tokens, uniform, stays, table))
        about = SamplingFields(
            *(images, self.codebook, sampling.guided, sampling.greedy, sampling.top_k),
            *(sampling.guidance, sampling.temperature, sampling.top_p, address(self.order)),
        )
        self.fields = TurnFields(*own, len(layers), grid, about)
        self.address = ctypes.addressof(self.fields)

    @property
    def logits(self) -> Tensor:
        """What the last tokens were drawn from, guidance and temperature within, float32 [images, codebook]."""
        images, lanes = len(self.token), rounded_up(self.rows, WIDE)
        vectors = self.room[: self.codebook * lanes].view(-1, self.codebook, WIDE).transpose(1, 2)
        return vectors[:, : WIDE * images // self.rows].flatten(0, 1)[:images]


def address(part: Tensor | None) -> int:
    """Where a tensor begins; 0 for none."""
    return 0 if part is None else part.data_ptr()


class TurnKernel:
    """Takes a drawing's turns, over slots whose decoder is one kernel."""

    def __init__(self, turn: Turn, cache: DecoderCache) -> None:
        """For a model and a sampling of which `is_known_ending` holds."""
        self.turn, self.cache = turn, cache
        tensors = turn.x, turn.positions, turn.at, turn.tokens, turn.uniform, turn.stays
        self.ending = Ending(turn.model.head_layers(), turn.sampling, turn.embed_image.table, *tensors)

    @property
    def most(self) -> int:
        """How many turns can be taken in one call: one, where the next input is made elsewhere."""
        return 1 if self.turn.embed_image.table is None else self.turn.model.geometry.columns

    def __call__(self, turns: int = 1) -> None:
        """As `Turn.draw`, so many times."""
        turn = self.turn
        if not turn.x.is_meta:  # else nothing but memory is counted
            run(*self.cache.arguments(turn.x, turn.positions, self.ending.address, turns))
        if turn.embed_image.table is None:
            turn.go_on(self.ending.token)


class KernelStep(FixedStep):
    """Turn by turn with a kernel, for all of a turn where one is known to work, and for as many turns as are told ahead
    and take no longer than AT_ONCE."""

    kernel: TurnKernel | None = None
    at_once = 1  # turns that took no longer lately

    def begin(self) -> FixedCache:
        fixed = super().begin()
        self.kernel = turn_kernel_for(self.turn, fixed)
        return fixed

    def draw(self, fixed: FixedCache, most: int) -> int:
        if self.kernel is None:
            return super().draw(fixed, most)
        begun = time.perf_counter()
        turns = fixed.advance(min(most, self.kernel.most, self.at_once))
        self.kernel(turns)
        seconds = time.perf_counter() - begun
        self.at_once = max(1, int(turns * AT_ONCE / max(seconds, LEAST)))
        return turns


def turn_kernel_for(turn: Turn, cache: FixedCache) -> TurnKernel | None:
    """A kernel for whole turns over these slots, where one is known to work."""
    if not (
        isinstance(cache, DecoderCache)
        and cache.rows_of_image == turn.sampling.rows_of_image
        and is_known_ending(turn.model, turn.sampling)
        and works(*cache.attention.dtypes)
    ):
        return None
    return TurnKernel(turn, cache)


def is_known_ending(model: ImageModel, sampling: Sampling) -> bool:
    """Whether the kernel does all that follows the decoder: the head's layers are torch's, or those of few_rows.py,
    their sizes go into vectors, nobody looks into what a token passes through, and sampling is as it stands there."""
    head: Sequence[Any] = model.head_layers()
    parts: list[Tensor] = [part for layer in head for part in (layer.weight, layer.bias) if part is not None]
    return (
        len(head) in (1, 2)
        and all(type(layer) in MATRICES for layer in head)
        and are_plain(parts, model.dtype)
        and all(len(part) % 4 == 0 for part in parts)
        and not any(map(is_watched, model.step_parts()))
        and type(sampling) is Sampling
    )


@functools.cache
def works(dtype: torch.dtype, stored: torch.dtype) -> bool:
    """Whether tokens are drawn from the logits that torch comes to, as torch draws them.

    stored: what keys and values are kept in, for which the kernel is compiled anew."""
    random = torch.Generator().manual_seed(0)
    if all(agrees(dtype, stored, sampling, images, random) for sampling, images in product(TRIED, ROWS)):
        return True
    logging.getLogger(__name__).warning(
        "The kernel for whole turns is done without on this processor: it gives wrong answers"
    )
    return False


def agrees(dtype: torch.dtype, stored: torch.dtype, sampling: Sampling, images: int, random: torch.Generator) -> bool:
    """Whether a turn of so many pictures, through a decoder without layers, ends alike on both paths."""
    hidden, inner, codebook = 2 * WIDE, WIDE + 4, 3 * WIDE
    rows = images * sampling.rows_of_image
    head = few_rows.Linear(hidden, inner, dtype=dtype), few_rows.Linear(inner, codebook, dtype=dtype)
    norm = few_rows.RMSNorm(hidden, 1e-6, dtype=dtype)
    for layer in head:
        for part in (layer.weight, layer.bias):
            part.requires_grad_(False).copy_(torch.randn(part.shape, generator=random) / part.shape[-1] ** 0.5)
    x, table = (torch.randn(size, hidden, generator=random).to(dtype) for size in (rows, codebook))
    logits = sampling.guide(head[1](gelu(head[0](norm(x)))).float()) / sampling.temperature
    positions, at = torch.zeros(rows, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    tokens, uniform = torch.empty(images, 1, dtype=torch.int64), torch.rand(1, images, generator=random)
    ending = Ending(head, sampling, table, x, positions, at, tokens, uniform)
    take_without_layers(ending, norm, x, positions, stored)
    drawn = replace(sampling, guidance=1.0, temperature=1.0).next_tokens(ending.logits, uniform[0])
    return (
        torch.allclose(ending.logits, logits, rtol=0, atol=CLOSE)
        and tokens[:, 0].equal(drawn)
        and x.equal(table[drawn].repeat(rows // images, 1))
        and int(at) == 1
        and bool((positions == 1).all())
    )


def take_without_layers(ending: Ending, norm: nn.RMSNorm, x: Tensor, positions: Tensor, stored: torch.dtype) -> None:
    """Take a turn as if the decoder were nothing but this norm."""
    (rows, hidden), dim = x.shape, 4
    nothing, weights = torch.empty(0), torch.empty(torch.get_num_threads(), 0)
    rope = torch.zeros(int(positions.max()) + 1, 2, dim, dtype=x.dtype)
    room = torch.zeros(2 * hidden + dim, rounded_up(rows, WIDE))
    states, order = torch.empty(1, 0), order_of(rows, rows // len(ending.token))
    parts = x, positions, rope, nothing, nothing, norm.weight, nothing, nothing, states, weights, room, order
    run(*parts, stored, (rows, hidden, 0, 0, 0, 1, 1, dim, 0), norm.eps or 0.0, ending.address, turns=1)
