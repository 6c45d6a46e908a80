"""A drawing's slots with a kernel that takes a token through all layers of the decoder, on the processor."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..models import few_rows
from ..models.base import Geometry
from ..models.decoder import Decoder, DecoderShape
from ..native.build import WIDE, loaded
from ..policies import Full
from .cache import SlotCache
from .cpp_kernel import CppKernel
from .kernel_cache import KernelCache, has_kernel
from .storage import KV_DTYPES
from .table import NUMBER

DTYPES = (torch.float32, torch.bfloat16)
PARTS = ("attention_norm", "qkv", "out", "mlp_norm", "gate_up", "down")  # in the order of `Layer` in decoder.h
NORMS, MATRICES = (nn.RMSNorm, few_rows.RMSNorm), (nn.Linear, few_rows.Linear)
CLOSE = 0.1  # numbers around 1 that differ by less came of the same layers, in any of these
ROWS, STEPS = (1, 3, 5), 3  # of the trial; few rows go other ways


class DecoderCache(KernelCache):
    """A KernelCache that feeds a token to a decoder in one call, attention included.

    It knows weights by their addresses as it knows slots: none may be replaced while this is in use.
    """

    def __init__(self, cache: SlotCache, decoder: Decoder, rows_of_image: int = 1) -> None:
        """For a cache that `is_known`, and a decoder that `is_taken`. rows_of_image: how many, see `order_of`."""
        super().__init__(cache, CppKernel, cache.geometry.columns)
        shape, device, rows = decoder.shape, torch.device(cache.device), len(self.answers)
        self.decoder, self.attention, self.rows_of_image = decoder, cast(CppKernel, self.kernel), rows_of_image
        self.order = order_of(rows, rows_of_image).to(device)
        places = self.order.argsort()
        self.ordered = [ordered(table, places, shape.kv_heads) for table in self.tables]
        addresses = [
            [*(part.weight.data_ptr() for part in parts_of(layer)), table.data_ptr()]
            for layer, table in zip(decoder.layers, self.ordered, strict=True)
        ]
        self.layers = torch.tensor(addresses, device=device)
        qkv = rows, shape.heads + 2 * shape.kv_heads, shape.head_dim
        self.qkv = torch.empty(qkv, dtype=cache.dtype, device=device)
        self.fed = torch.empty(rows, shape.hidden, dtype=cache.dtype, device=device)
        # what is added up, the positions' rotations, the MLP's inner numbers, and what else is multiplied
        numbers = shape.hidden + shape.head_dim + shape.inner + max(shape.hidden, shape.heads * shape.head_dim)
        # for each row, in whole vectors; a row more always takes as much more, so that plans can follow
        self.room = torch.zeros(numbers, rows + WIDE - 1, device=device)
        self.shape = [rows, shape.hidden, shape.inner, shape.layers]

    @property
    def nbytes(self) -> int:
        held = (self.order, *self.ordered, self.layers, self.qkv, self.fed, self.room)
        return super().nbytes + sum(part.nbytes for part in held)

    @property
    def about(self) -> object:
        return "decoder", super().about

    def feed(self, x: Tensor, positions: Tensor) -> Tensor:
        """As `step.feed`; the next token overwrites what comes out."""
        if x.is_meta:  # nothing but memory is counted
            return self.fed
        call = feed_decoder if torch.compiler.is_compiling() else run
        call(*self.arguments(x.contiguous(), positions.contiguous()))
        return self.fed

    def arguments(self, x: Tensor, positions: Tensor, ending: int = 0, turns: int = 1) -> list[Any]:
        """What `run` takes. x [rows, hidden] and positions [rows, 1], contiguous."""
        decoder, attention = self.decoder, self.attention
        return [
            *(x, positions, decoder.rope.table, self.fed, self.layers, decoder.norm.weight),
            *(self.qkv, self.answers, self.states, attention.room, self.room, self.order, attention.dtypes[1]),
            *(self.shape + attention.sizes, decoder.shape.norm_eps, ending, turns),
        ]


def run(
    x: Tensor,
    positions: Tensor,
    rope: Tensor,
    fed: Tensor,
    layers: Tensor,
    norm: Tensor,
    qkv: Tensor,
    answers: Tensor,
    states: Tensor,
    weights: Tensor,
    room: Tensor,
    order: Tensor,
    stored: torch.dtype,
    sizes: Sequence[int],
    eps: float,
    ending: int,
    turns: int,
) -> None:
    """The call itself. sizes: rows, hidden, inner, layers; then as `run` of cpp_kernel.py takes them.

    ending: address of what follows, see turn_kernel.py, and nothing is fed out then; 0 where nothing does.
    turns: how many are taken, one where nothing follows."""
    parts = x, positions, rope, fed, layers, norm, qkv, answers, states, weights, room, order
    addresses = (part.data_ptr() for part in parts)
    loaded(x.dtype, stored).decode(*addresses, ending, *sizes, len(weights), states.shape[1], turns, eps)


# As `attend_pairs` of cpp_kernel.py.
feed_decoder = torch.library.custom_op(re.sub(r"\W", "_", __name__) + "::feed_decoder", run, mutates_args=("fed",))


def order_of(rows: int, rows_of_image: int) -> Tensor:
    """In which order the kernel takes rows, int64 [rows]: those of a picture lie in one vector, so that its next token
    hangs on no other. Here come the first rows of all pictures, and then the second ones, if they have two."""
    images = rows // rows_of_image
    vectors = torch.arange(rows).view(rows_of_image, images).split(WIDE // rows_of_image, 1)
    return torch.cat([vector.flatten() for vector in vectors])


def ordered(table: Tensor, places: Tensor, kv_heads: int) -> Tensor:
    """A layer's table with rows numbered by their places in the kernel's order, int64 [rows], and the pairs of each
    vector of rows together."""
    row, head = table[:, NUMBER] // kv_heads, table[:, NUMBER] % kv_heads
    place = places[row]
    numbered = table.clone()
    numbered[:, NUMBER] = place * kv_heads + head
    return numbered[(place // WIDE).argsort(stable=True)]


def decoder_cache_for(decoder: Decoder, cache: SlotCache, rows_of_image: int = 1) -> DecoderCache | None:
    """The cache's slots with a kernel for the whole decoder, where one is known to work."""
    shape = decoder.shape
    if not (
        is_taken(decoder)
        and has_kernel(cache)
        and works(cache.dtype, cache.kind, shape.heads, shape.kv_heads, shape.head_dim)
    ):
        return None
    return DecoderCache(cache, decoder, rows_of_image)


def parts_of(layer: nn.Module) -> list[Any]:
    """The parts of a layer that have weights, in the kernel's order."""
    return [getattr(layer, name) for name in PARTS]


def is_taken(decoder: Decoder) -> bool:
    """Whether the kernel does all that this decoder does: its layers are torch's, or those of few_rows.py, in the
    processor's memory, their sizes go into vectors, and nobody looks into them."""
    shape = decoder.shape
    parts = [decoder.norm, *(part for layer in decoder.layers for part in parts_of(layer))]
    return (
        all(type(part) in NORMS or (type(part) in MATRICES and part.bias is None) for part in parts)
        and decoder.norm.weight.dtype in DTYPES
        and are_plain([part.weight for part in parts], decoder.norm.weight.dtype)
        and shape.hidden % 4 == shape.head_dim % 4 == shape.inner % 2 == 0
        and not is_watched(decoder)
    )


def are_plain(weights: Sequence[Tensor], dtype: torch.dtype) -> bool:
    """Whether a kernel can read these by their addresses, and they are nothing that only looks like weights."""
    return all(
        type(weight) is nn.Parameter
        and weight.dtype == dtype
        and weight.device.type in ("cpu", "meta")
        and weight.is_contiguous()
        for weight in weights
    )


def is_watched(whole: nn.Module) -> bool:
    """Whether anybody looks into any of its modules, or changes what goes in or comes out."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in whole.modules())


@functools.cache
def works(dtype: torch.dtype, kind: torch.dtype | None, heads: int, kv_heads: int, head_dim: int) -> bool:
    """Whether steps through two layers end as they do layer by layer."""
    shape = DecoderShape(2, 2 * WIDE, heads, kv_heads, head_dim, 3 * WIDE, 1e-6, 1e4)
    random = torch.Generator().manual_seed(0)
    decoder = Decoder(shape, few_rows, dtype=dtype).requires_grad_(False)
    for weight in decoder.parameters():
        weight.copy_(torch.randn(weight.shape, generator=random) / weight.shape[-1] ** 0.5)
    if all(agrees(decoder, dtype, kind, rows, random) for rows in ROWS):
        return True
    logging.getLogger(__name__).warning(
        "The kernel for the whole decoder is done without on this processor: it gives wrong answers"
    )
    return False


def agrees(decoder: Decoder, dtype: torch.dtype, kind: torch.dtype | None, rows: int, random: torch.Generator) -> bool:
    """Whether some steps of so many rows, with unequal prompts, end alike on both paths."""
    shape, prompts = decoder.shape, [2 + row % 2 for row in range(rows)]
    geometry = Geometry(shape.layers, shape.heads, shape.kv_heads, shape.head_dim, 1, STEPS, 1)
    kv_dtype = next(word for word, precision in KV_DTYPES.items() if precision is kind)
    plain, known = (SlotCache(Full(), geometry, prompts, dtype, torch.device("cpu"), kv_dtype) for _ in range(2))
    for groups, *layers in zip(plain.groups, plain.layers, known.layers, strict=True):
        for group, *both in zip(groups, *layers, strict=True):
            prompt = torch.randn(2, len(group.pairs), group.prompt - 1, shape.head_dim, generator=random).to(dtype)
            for slots in both:
                slots.fill(*prompt)
    decoder.rope.reserve(max(prompts) + STEPS, torch.device("cpu"), dtype)
    cache = DecoderCache(known, decoder)
    for step in range(STEPS):
        x = torch.randn(rows, shape.hidden, generator=random).to(dtype)
        positions = torch.tensor([[prompt - 1 + step] for prompt in prompts])
        cache.advance()
        expected = decoder(x[:, None], positions, plain)[:, 0]
        if not torch.allclose(cache.feed(x, positions), expected, rtol=0, atol=CLOSE):
            return False
    return True
