"""Attention of one query a head over its slots, for all pairs of a layer in one launch: a kernel in Triton.

Each (row, kv head) pair has slots of its own, as many as it needs, wherever they lie; a row of a table says where. What
changes from step to step stands in numbers on the device, a row for each kind of slots. So a launch is the same at
every step, and a CUDA graph can hold it.

With one query there is nothing for matrix units to do, and time goes by the bytes that are read. A program works on a
tile of keys and one of values in 96 to 128 registers a thread, in half precision; so four or five programs share a
multiprocessor, and one computes while others wait for memory. Query heads that share keys and values read them one by
one, all but the first from the GPU's cache.

Never run on a GPU: how work is divided is thought out, not measured. Triton's interpreter (3.0, 3.4, 3.9) does what the
plain path does, and the same versions compile it for sm_75 to sm_90; 3.9 for sm_100,
sm_120, gfx90a and gfx942 as well.
"""

# Annotations are not postponed here: Triton looks for tl.constexpr itself among them.

import math
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .cache import SlotCache
from .fixed import NUMBERS
from .storage import LARGEST, LEAST
from .table import FIELDS

TILE = 4096  # numbers of keys, and as many of values, that a program works on at a time: 32 for each of its threads
MOST_SLOTS = 128  # of a tile
WARPS = 4
STAGES = 2  # the next tile comes while one is worked on
VECTOR_BYTES = 16  # that a thread loads at once, where they lie at a multiple of it
RESIDENT = 4  # programs that a multiprocessor has registers for

# what compiled functions may read
FIELDS_OF_PAIR = tl.constexpr(FIELDS)
NUMBERS_OF_KIND = tl.constexpr(NUMBERS)
LEAST_SCALE = tl.constexpr(LEAST)
NOTHING = tl.constexpr(-1e30)  # the largest of no logits: finite, so that no difference is NaN
WHOLE = tl.constexpr(1.5 * 2.0**23)  # float32 numbers of this size are whole
WHOLE_512THS = tl.constexpr(1.5 * 2.0**14)  # and these are whole 512ths
SCORES_AT_ONCE = tl.constexpr(256)


@triton.jit
def rounded(x: tl.tensor, BITS: tl.constexpr) -> tl.tensor:
    """float32 to the nearest number without so many last bits, of two the even one. Conversions on a GPU do that, too,
    but the interpreter's do not."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + ((1 << (BITS - 1)) - 1) + ((bits >> BITS) & 1)) & -(1 << BITS)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def store(
    vector: tl.tensor,
    inside: tl.tensor,
    numbers: tl.tensor,
    scales: tl.tensor,
    slot: tl.tensor,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    LARGEST: tl.constexpr,
) -> None:
    """Write a vector into its slot; rounded as `quantize` rounds where LARGEST is not 0."""
    to = numbers + slot * DIM + tl.arange(0, BLOCK_DIM)
    if LARGEST > 0:
        x = vector.to(tl.float32)
        scale = tl.maximum(rounded(tl.max(tl.abs(x), 0), 16), LEAST_SCALE)
        tl.store(scales + slot, scale.to(tl.bfloat16))
        x = x * (tl.div_rn(1.0, scale) * LARGEST)
        # between the product and the sums, lest they become one operation, which would round otherwise
        x = tl.minimum(tl.maximum(x, -LARGEST), LARGEST)
        if numbers.dtype.element_ty == tl.int8:
            x = (x + WHOLE) - WHOLE
        else:  # to three bits behind the first, and the smallest to 512ths
            small = (x + WHOLE_512THS) - WHOLE_512THS
            x = tl.where(tl.abs(x) < 0.015625, small, rounded(x, 20))
        tl.store(to, x.to(numbers.dtype.element_ty), mask=inside)
    else:
        tl.store(to, vector, mask=inside)


@triton.jit
def add_scores(
    scores: tl.tensor, received: tl.tensor, at: tl.tensor, held: tl.tensor, slot: tl.tensor, unit: tl.tensor
) -> None:
    """Add the attention that the tokens in the slots `at` received. The newest token's score begins with it."""
    before = tl.load(scores + at, mask=(at < held) & (at != slot), other=0.0)
    tl.store(scores + at, before + received * unit, mask=at < held)


@triton.jit
def attend_pairs(
    qkv: tl.tensor,
    answers: tl.tensor,
    stored: tl.tensor,
    table: tl.tensor,
    state: tl.tensor,
    units: tl.tensor,
    logits: tl.tensor,
    parts: tl.tensor,
    sums: tl.tensor,
    factor: tl.tensor,
    widest: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    LARGEST: tl.constexpr,
    ALIGNED: tl.constexpr,
    SCORED: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Store a pair's newest token and answer one of its queries, or with SPLITS the part of its answer that so many
    slots give. Programs: [pairs * GROUP, SPLITS].

    Each of BLOCK lanes keeps a softmax of its own, over every BLOCK-th slot, and they are brought together at the end,
    so that the loop has no sum or maximum over all threads.

    qkv, answers, table, state: as `TritonKernel` takes them; stored: of the precision that slots have; units: state as
    float32. Scratch, all float32: logits [pairs, GROUP, widest]; parts [pairs, SPLITS, GROUP, DIM]; sums [pairs,
    SPLITS, GROUP, 2], of each split the largest logit and the sum of the weights. factor: of logits. LARGEST: what a
    scale stands for, 0 without scales. ALIGNED: bytes, of which vectors begin at a multiple.
    """
    GROUP: tl.constexpr = HEADS // KV_HEADS
    index, of_group, split = tl.program_id(0).to(tl.int64) // GROUP, tl.program_id(0) % GROUP, tl.program_id(1)
    fields = table + index * FIELDS_OF_PAIR
    keys = tl.multiple_of(tl.load(fields).to(stored.dtype), ALIGNED)
    values = tl.multiple_of(tl.load(fields + 1).to(stored.dtype), ALIGNED)
    key_scales = tl.load(fields + 2).to(tl.pointer_type(tl.bfloat16))
    value_scales = tl.load(fields + 3).to(tl.pointer_type(tl.bfloat16))
    score_address, query_address = tl.load(fields + 4), tl.load(fields + 5)
    pair, kind = tl.load(fields + 6), tl.load(fields + 7)
    slot = tl.load(state + kind * NUMBERS_OF_KIND)
    held = tl.load(state + kind * NUMBERS_OF_KIND + 1)
    row, head = pair // KV_HEADS, pair % KV_HEADS

    of_dim = tl.arange(0, BLOCK_DIM)
    in_dim = of_dim < DIM
    brought = qkv + row * ((HEADS + 2 * KV_HEADS) * DIM)
    query_head = head * GROUP + of_group
    query = tl.load(brought + query_head * DIM + of_dim, mask=in_dim, other=0.0)

    # the slots that are this program's; none, it may be
    each = (held + SPLITS - 1) // SPLITS
    first = split * each
    end = tl.minimum(first + each, held)
    if (slot >= first) & (slot < end):
        newest = brought + (HEADS + head) * DIM + of_dim
        new_key = tl.load(newest, mask=in_dim, other=0.0)
        new_value = tl.load(newest + KV_HEADS * DIM, mask=in_dim, other=0.0)
        store(new_key, in_dim, keys, key_scales, slot, DIM, BLOCK_DIM, LARGEST)
        store(new_value, in_dim, values, value_scales, slot, DIM, BLOCK_DIM, LARGEST)
        if query_address != 0:
            place = tl.load(state + kind * NUMBERS_OF_KIND + 2) * GROUP + of_group
            queries = query_address.to(qkv.dtype)
            tl.store(queries + place * DIM + of_dim, query, mask=in_dim)
    # Other threads will read the newest token. Programs of other queries do as well, but write it first, all the same.
    tl.debug_barrier()

    asked = query.to(tl.float32) * factor
    most = tl.full([BLOCK], NOTHING, tl.float32)
    total = tl.full([BLOCK], 0.0, tl.float32)
    answer = tl.full([BLOCK, BLOCK_DIM], 0.0, tl.float32)
    noted = logits + (index * GROUP + of_group) * widest
    noted_end = tl.where(score_address != 0, end, 0)
    for start in tl.range(first, end, BLOCK, num_stages=STAGES):
        at = start + tl.arange(0, BLOCK)
        filled = at < end
        tile = at[:, None] * DIM + of_dim[None, :]
        inside = filled[:, None] & in_dim[None, :]
        key = tl.load(keys + tile, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(values + tile, mask=inside, other=0.0).to(tl.float32)
        logit = tl.sum(asked[None, :] * key, 1)
        if LARGEST > 0:
            logit *= tl.load(key_scales + at, mask=filled, other=0.0).to(tl.float32) * (1 / LARGEST)
        logit = tl.where(filled, logit, float("-inf"))
        if SCORED:
            tl.store(noted + at, logit, mask=at < noted_end)
        larger = tl.maximum(most, logit)
        fade, weight = tl.exp(most - larger), tl.exp(logit - larger)
        most, total = larger, total * fade + weight
        if LARGEST > 0:
            weight *= tl.load(value_scales + at, mask=filled, other=0.0).to(tl.float32) * (1 / LARGEST)
        answer = answer * fade[:, None] + weight[:, None] * value

    row_most = tl.max(most, 0)
    share = tl.exp(most - row_most)
    row_total = tl.sum(total * share, 0)
    row_answer = tl.sum(answer * share[:, None], 0)
    if SPLITS == 1 and not (SCORED and GROUP > 1):
        to = answers + (row * HEADS + query_head) * DIM + of_dim
        tl.store(to, (row_answer / row_total).to(answers.dtype.element_ty), mask=in_dim)
        if score_address != 0:
            scores = score_address.to(tl.pointer_type(tl.float32))
            unit = tl.load(units + kind * NUMBERS_OF_KIND + 3)
            tl.debug_barrier()  # other threads noted the logits
            for start in range(0, held, SCORES_AT_ONCE):
                at = start + tl.arange(0, SCORES_AT_ONCE)
                logit = tl.load(noted + at, mask=at < held, other=float("-inf"))
                add_scores(scores, tl.exp(logit - row_most) / row_total, at, held, slot, unit)
    else:
        part = (index * SPLITS + split) * GROUP + of_group
        tl.store(parts + part * DIM + of_dim, row_answer, mask=in_dim)
        tl.store(sums + part * 2, row_most)
        tl.store(sums + part * 2 + 1, row_total)


@triton.jit
def merge_splits(
    answers: tl.tensor,
    table: tl.tensor,
    state: tl.tensor,
    units: tl.tensor,
    logits: tl.tensor,
    parts: tl.tensor,
    sums: tl.tensor,
    widest: tl.tensor,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    """Bring what the splits of a pair found together: its answers, and its scores."""
    GROUP: tl.constexpr = HEADS // KV_HEADS
    index = tl.program_id(0).to(tl.int64)
    fields = table + index * FIELDS_OF_PAIR
    pair = tl.load(fields + 6)
    row, head = pair // KV_HEADS, pair % KV_HEADS
    of_dim, of_group, of_split = tl.arange(0, BLOCK_DIM), tl.arange(0, BLOCK_GROUP), tl.arange(0, SPLITS)
    in_dim, in_group = of_dim < DIM, of_group < GROUP
    part = (index * SPLITS + of_split[None, :]) * GROUP + of_group[:, None]
    most = tl.load(sums + part * 2, mask=in_group[:, None], other=0.0)
    total = tl.load(sums + part * 2 + 1, mask=in_group[:, None], other=1.0)
    inside = in_group[:, None, None] & in_dim[None, None, :]
    answer = tl.load(parts + part[:, :, None] * DIM + of_dim[None, None, :], mask=inside, other=0.0)
    row_most = tl.max(most, 1)
    share = tl.exp(most - row_most[:, None])
    row_total = tl.sum(total * share, 1)
    row_answer = tl.sum(answer * share[:, :, None], 1) / row_total[:, None]
    to = answers + (row * HEADS + head * GROUP) * DIM + of_group[:, None] * DIM + of_dim[None, :]
    tl.store(to, row_answer.to(answers.dtype.element_ty), mask=in_group[:, None] & in_dim[None, :])
    score_address, kind = tl.load(fields + 4), tl.load(fields + 7)
    if score_address != 0:
        scores = score_address.to(tl.pointer_type(tl.float32))
        slot = tl.load(state + kind * NUMBERS_OF_KIND)
        held = tl.load(state + kind * NUMBERS_OF_KIND + 1)
        unit = tl.load(units + kind * NUMBERS_OF_KIND + 3)
        noted = logits + (index * GROUP + of_group[:, None]) * widest
        for start in range(0, held, SCORES_AT_ONCE):
            at = start + tl.arange(0, SCORES_AT_ONCE)
            known = in_group[:, None] & (at < held)[None, :]
            logit = tl.load(noted + at[None, :], mask=known, other=float("-inf"))
            received = tl.sum(tl.exp(logit - row_most[:, None]) / row_total[:, None], 0)
            add_scores(scores, received, at, held, slot, unit)


@dataclass(frozen=True)
class Tiling:
    """How a launch divides its work: `block` slots of a pair at a time, and a pair's slots among `splits` programs.
    Both are powers of 2."""

    block: int
    splits: int

    @classmethod
    def of(cls, programs: int, slots: int, head_dim: int, multiprocessors: int) -> "Tiling":
        """For so many queries, with so many slots at most, on a device with so many multiprocessors.

        Splits fill a device that has few queries, but they take a launch more; so each is to have two tiles or more.
        """
        block = min(MOST_SLOTS, max(1, TILE // triton.next_power_of_2(head_dim)))
        splits = min(RESIDENT * multiprocessors // programs, slots // (2 * block))
        return cls(block, 1 << max(0, splits.bit_length() - 1))


class TritonKernel:
    """The launches of a step, the same for every layer, and the scratch that the layers share."""

    def __init__(
        self,
        cache: SlotCache,
        pairs: int,
        slots: int,
        scored: bool,
        block: int | None = None,
        splits: int | None = None,
    ) -> None:
        """pairs: of each layer. slots: the most that a pair has. scored: whether any pair keeps scores.
        block, splits: of its Tiling; as suits the device if not given."""
        geometry, device = cache.geometry, torch.device(cache.device)
        self.about = pairs, slots, scored
        dim, group = geometry.head_dim, geometry.heads // geometry.kv_heads
        tiling = Tiling.of(pairs * group, slots, dim, multiprocessors(device))
        tiling = replace(tiling, block=block or tiling.block, splits=splits or tiling.splits)
        self.merges = tiling.splits > 1 or (scored and group > 1)  # the queries of a pair add to the same scores
        self.programs, self.factor, self.slots = (pairs * group, tiling.splits), dim**-0.5, slots
        sizes = (
            (pairs, group, slots if scored else 0),
            (pairs, tiling.splits, group, dim if self.merges else 0),
            (pairs, tiling.splits, group, 2 if self.merges else 0),
        )
        # as `attend_pairs` takes it; empty where it is not written
        self.scratch = [torch.empty(*size, dtype=torch.float32, device=device) for size in sizes]
        self.stored = torch.empty(0, dtype=cache.kind or cache.dtype, device=device)
        self.both = {
            "HEADS": geometry.heads,
            "KV_HEADS": geometry.kv_heads,
            "DIM": dim,
            "BLOCK_DIM": triton.next_power_of_2(dim),
            "SPLITS": tiling.splits,
            "num_warps": WARPS,
            "enable_fp_fusion": True,  # of products and sums: the default is about to change
        }
        largest = LARGEST[cache.kind] if cache.kind else 0.0
        self.first = {"BLOCK": tiling.block, "STAGES": STAGES, "LARGEST": largest, "SCORED": scored}
        self.second = {"BLOCK_GROUP": triton.next_power_of_2(group)}

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.scratch)

    def __call__(self, qkv: Tensor, answers: Tensor, table: Tensor, state: Tensor) -> None:
        """Store the newest token of every pair of a layer, and answer its queries.

        qkv [B, 1, heads + 2 * kv_heads, D] and answers [B, 1, heads, D], contiguous; table: int64 [pairs, FIELDS];
        state: int32 [kinds, NUMBERS].
        """
        units, aligned = state.view(torch.float32), math.gcd(VECTOR_BYTES, qkv.shape[-1] * self.stored.itemsize)
        with torch.cuda.device_of(qkv):  # Triton launches on the current device
            attend_pairs[self.programs](
                *(qkv, answers, self.stored, table, state, units, *self.scratch, self.factor, self.slots),
                ALIGNED=aligned,
                **self.first,
                **self.both,
            )
            if self.merges:
                merge_splits[(len(table),)](
                    *(answers, table, state, units, *self.scratch, self.slots), **self.second, **self.both
                )


def multiprocessors(device: torch.device) -> int:
    """Of this device. The processor, where only tests run the kernel, is one."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
