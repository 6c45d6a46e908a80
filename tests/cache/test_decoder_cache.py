"""What the kernel for a whole decoder must do: what the decoder does layer by layer, for any sizes."""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ssd_core import load
from ssd_core.cache import decoder_cache
from ssd_core.cache.decoder_cache import DTYPES, DecoderCache, decoder_cache_for, feed_decoder, is_taken, run, works
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.storage import KV_DTYPES
from ssd_core.models import few_rows
from ssd_core.models.base import Geometry
from ssd_core.models.decoder import Decoder, DecoderShape
from ssd_core.policies import H2O, Full, Policy
from tests.cache.kernel_cases import filled, needs_compiler
from tests.cache.test_cpp_kernel import threads

pytestmark = needs_compiler
CPU = torch.device("cpu")
EXACT, ROUNDED = 1e-3, 0.1  # of numbers around 1
SHAPE = DecoderShape(2, 24, 4, 2, 8, 10, 1e-6, 1e4)


def made(shape: DecoderShape = SHAPE, dtype: torch.dtype = torch.float32, ops: object = few_rows) -> Decoder:
    """A decoder with random weights, of which none is as any other."""
    random = torch.Generator().manual_seed(0)
    decoder = Decoder(shape, ops, dtype=dtype).requires_grad_(False)
    for weight in decoder.parameters():
        spread = torch.randn(weight.shape, generator=random)
        weight.copy_(spread / math.sqrt(weight.shape[-1]) if weight.ndim == 2 else 1 + spread / 4)
    return decoder


class Pair:
    """The same slots twice: for the decoder layer by layer, and for the kernel."""

    def __init__(self, decoder: Decoder, rows: int, policy: Policy | None = None, kv_dtype: str = "auto") -> None:
        shape, dtype = decoder.shape, decoder.norm.weight.dtype
        self.prompts = [2 + 3 * (row % 2) for row in range(rows)]
        geometry = Geometry(shape.layers, shape.heads, shape.kv_heads, shape.head_dim, 1, 4, 1)
        self.decoder, self.steps, self.random = decoder, 0, torch.Generator().manual_seed(1)
        both = [filled(policy or Full(), geometry, self.prompts, dtype, kv_dtype, CPU) for _ in range(2)]
        self.plain, self.cache = both[0], DecoderCache(both[1], decoder)
        decoder.rope.reserve(max(self.prompts) + geometry.tokens, CPU, dtype)

    def next(self) -> tuple[Tensor, Tensor]:
        """What is fed next, and where it stands."""
        x = torch.randn(len(self.prompts), self.decoder.shape.hidden, generator=self.random)
        positions = torch.tensor([[prompt - 1 + self.steps] for prompt in self.prompts])
        self.steps += 1
        return x.to(self.decoder.norm.weight.dtype), positions

    def step(self) -> tuple[Tensor, Tensor]:
        """What the decoder makes of it layer by layer, and what the kernel makes of it."""
        x, positions = self.next()
        self.cache.advance()
        plain = self.decoder(x[:, None], positions, self.plain)[:, 0]
        return plain, self.cache.feed(x, positions).clone()


@given(
    layers=st.integers(1, 3),
    hidden=st.integers(1, 12).map(lambda fours: 4 * fours),
    group=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    dim=st.sampled_from([4, 12, 32, 64, 128, 132]),
    inner=st.integers(1, 40).map(lambda twos: 2 * twos),
    rows=st.sampled_from([1, 2, 3, 4, 5, 16, 17, 33, 50, 64, 81, 130]),
    dtype=st.sampled_from(DTYPES),
    kv_dtype=st.sampled_from([*KV_DTYPES]),
    cores=st.integers(1, 3),
)
def test_the_kernel_does_what_the_layers_do(
    layers: int,
    hidden: int,
    group: int,
    kv_heads: int,
    dim: int,
    inner: int,
    rows: int,
    dtype: torch.dtype,
    kv_dtype: str,
    cores: int,
) -> None:
    shape = DecoderShape(layers, hidden, group * kv_heads, kv_heads, dim, inner, 1e-6, 1e4)
    decoder = made(shape, dtype)
    assert is_taken(decoder)
    with threads(cores):
        pair = Pair(decoder, rows, H2O(1.0), kv_dtype)
        for _ in range(2):
            plain, ours = pair.step()
            if (dtype, kv_dtype) == (torch.float32, "auto"):
                torch.testing.assert_close(ours, plain, rtol=EXACT, atol=EXACT)
            else:  # a norm over few numbers may make much of where one is rounded the other way
                assert (ours - plain).float().abs().mean() < ROUNDED


@pytest.mark.parametrize("rows", [2, 4, 20, 70])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernel_is_as_near_to_what_is_exact_as_the_layers(dtype: torch.dtype, rows: int) -> None:
    decoder = made(DecoderShape(3, 96, 4, 4, 32, 160, 1e-6, 1e4), dtype)
    exact = made(decoder.shape, torch.float64)
    exact.load_state_dict(decoder.state_dict())
    pair, truth = Pair(decoder, rows), Pair(exact, rows)
    for slots, own in zip(chain(*truth.plain.layers), chain(*pair.plain.layers), strict=True):
        slots.kv.copy_(own.kv)
    off = torch.zeros(2, dtype=torch.float64)
    for _ in range(3):
        x, positions = pair.next()
        pair.cache.advance()
        expected = exact(x.double()[:, None], positions, truth.plain)
        answers = decoder(x[:, None], positions, pair.plain), pair.cache.feed(x, positions)[:, None]
        off += torch.stack([(answer - expected).square().mean() for answer in answers])
    plain, ours = off.sqrt().tolist()
    assert ours <= 1.1 * plain
    assert plain < 0.05


def before_nothing(weight: Tensor) -> Tensor:
    """The same at the end of memory: whoever reads on behind it dies."""
    page = mmap.PAGESIZE
    size = -(-weight.nbytes // page) * page
    region = mmap.mmap(-1, size + page)
    end = ctypes.addressof(ctypes.c_char.from_buffer(region)) + size
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), ctypes.c_size_t(page), 0) == 0
    moved = torch.frombuffer(region, dtype=weight.dtype, count=weight.numel(), offset=size - weight.nbytes)
    return moved.view_as(weight).copy_(weight)


@pytest.mark.parametrize("rows", [2, 4, 20, 40, 70])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_behind_a_matrix_is_read(dtype: torch.dtype, rows: int) -> None:
    decoder = made(DecoderShape(2, 20, 2, 2, 12, 10, 1e-6, 1e4), dtype)  # whose last blocks are half empty
    for weight in decoder.parameters():
        weight.data = before_nothing(weight)
    plain, ours = Pair(decoder, rows).step()
    assert (ours - plain).float().abs().mean() < ROUNDED


@pytest.mark.parametrize("inner", [10, 12000], ids=["apart", "together"])  # weights are read by each thread, or once
@pytest.mark.parametrize("rows", [5, 21, 40, 64])
def test_threads_make_no_difference(rows: int, inner: int) -> None:
    decoder, left = made(replace(SHAPE, hidden=40, inner=inner)), []
    for count in (1, 2, 3, 5):
        with threads(count):
            pair = Pair(decoder, rows, H2O(1.0))
            answers = [pair.step()[1] for _ in range(3)]
        slots = cast(list[RankedSlots], [*chain(*pair.cache.cache.layers)])
        left.append([*answers, *(part for own in slots for part in (own.kv[:, :, : own.held], own.score))])
    for other in left[1:]:
        assert all(one.equal(two) for one, two in zip(left[0], other, strict=True))


@pytest.mark.parametrize("rows", [3, 18])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_do_not_touch_each_other(rows: int, dtype: torch.dtype) -> None:
    pairs = [Pair(made(dtype=dtype), rows) for _ in range(2)]
    answers = []
    for pair, wrong in zip(pairs, (0.0, math.nan), strict=True):
        x, positions = pair.next()
        x[1] += wrong
        pair.cache.advance()
        answers.append(pair.cache.feed(x, positions))
    assert answers[1][1].isnan().all()
    others = [row for row in range(rows) if row != 1]
    assert answers[1][others].equal(answers[0][others])


def test_torchs_layers_are_taken_as_well() -> None:
    pair = Pair(made(ops=nn), 3)
    plain, ours = pair.step()
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    assert isinstance(decoder_cache_for(pair.decoder, pair.cache.cache), DecoderCache)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_embedded_model_is_taken(dtype: str) -> None:
    assert is_taken(load("janus-shapes", "cpu", dtype).decoder)


def biased(decoder: Decoder) -> None:
    decoder.layers[1].out = nn.Linear(32, 24)


def of_another_class(decoder: Decoder) -> None:
    class Own(nn.Linear):
        """Which may do anything."""

    decoder.layers[1].down = Own(10, 24, bias=False)


def with_another_norm(decoder: Decoder) -> None:
    decoder.norm = nn.LayerNorm(24)


def looked_into(decoder: Decoder) -> None:
    decoder.norm.register_forward_hook(lambda *_: None)


def looked_into_before(decoder: Decoder) -> None:
    decoder.layers[0].register_forward_pre_hook(lambda *_: None)


def of_two_precisions(decoder: Decoder) -> None:
    decoder.layers[0].qkv.to(torch.bfloat16)


def turned(decoder: Decoder) -> None:
    (*_, last) = decoder.layers
    last.down.weight = nn.Parameter(torch.randn(10, 24).T)  # type: ignore[union-attr]


def of_other_tensors(decoder: Decoder) -> None:
    class Packed(Tensor):
        """As torchao puts into torch's own layers."""

    for part in decoder.modules():
        if isinstance(part, few_rows.Linear):
            part.weight = nn.Parameter(part.weight.data.as_subclass(Packed), requires_grad=False)


@pytest.mark.parametrize(
    "change",
    [
        biased,
        of_another_class,
        with_another_norm,
        looked_into,
        looked_into_before,
        of_two_precisions,
        turned,
        of_other_tensors,
    ],
)
def test_other_decoders_go_layer_by_layer(change: Callable[[Decoder], None]) -> None:
    decoder = made()
    assert is_taken(decoder)
    change(decoder)
    assert not is_taken(decoder)
    cache = filled(Full(), Geometry(2, 4, 2, 8, 1, 4, 1), [3], torch.float32, "auto", CPU)
    assert decoder_cache_for(decoder, cache) is None


@pytest.mark.parametrize(("hidden", "dim", "inner"), [(26, 8, 10), (24, 6, 10), (24, 8, 11)])
def test_so_do_sizes_that_do_not_go_into_vectors(hidden: int, dim: int, inner: int) -> None:
    assert not is_taken(made(DecoderShape(1, hidden, 2, 2, dim, inner, 1e-6, 1e4)))


def test_so_does_a_precision_that_it_does_not_multiply_in() -> None:
    assert not is_taken(made(dtype=torch.float16))


def test_slots_without_a_kernel_have_none_for_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = filled(Full(), Geometry(2, 4, 2, 8, 1, 4, 1), [3], torch.float32, "auto", CPU)
    assert decoder_cache_for(made(), cache)
    monkeypatch.setattr(decoder_cache, "has_kernel", lambda _: False)
    assert decoder_cache_for(made(), cache) is None


@pytest.mark.parametrize("kv_dtype", [*KV_DTYPES])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_trial_finds_that_it_works(dtype: torch.dtype, kv_dtype: str) -> None:
    assert works.__wrapped__(dtype, KV_DTYPES[kv_dtype], 4, 2, 32)


def test_the_trial_finds_wrong_answers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(*given: object) -> None:
        run(*given)  # type: ignore[arg-type]
        fed, rows = given[3], given[-4][0]  # type: ignore[index]
        if rows == 5:
            fed[-1].add_(1)  # type: ignore[index]

    monkeypatch.setattr(decoder_cache, "run", wrong)
    with caplog.at_level(logging.WARNING):
        assert not works.__wrapped__(torch.float32, None, 4, 2, 32)
    (told,) = caplog.messages
    assert told == "The kernel for the whole decoder is done without on this processor: it gives wrong answers"
    monkeypatch.setattr(decoder_cache, "works", lambda *_: False)
    cache = filled(Full(), Geometry(2, 4, 2, 8, 1, 4, 1), [3], torch.float32, "auto", CPU)
    assert decoder_cache_for(made(), cache) is None


def test_the_operator_of_a_compiled_step_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = (Pair(made(), 3) for _ in range(2))
    expected = one.step()[1]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(decoder_cache, "run", None)
    assert feed_decoder is decoder_cache.feed_decoder
    assert two.step()[1].equal(expected)


def test_what_it_holds_is_counted() -> None:
    pair = Pair(made(), 3)
    lanes, numbers = 3 + 15, 24 + 8 + 10 + 32
    beside = 2 * 7 * 8 + 3 * 8 * 8 * 4 + 3 * 24 * 4 + lanes * numbers * 4  # addresses, qkv, what comes out, and room
    beside += 3 * 8 + sum(table.nbytes for table in pair.cache.tables)  # rows, and pairs, in the kernel's order
    assert pair.cache.nbytes == beside + super(DecoderCache, pair.cache).nbytes


def test_a_cache_is_attended_layer_by_layer_as_well() -> None:
    pair = Pair(made(), 3)
    x, positions = pair.next()
    pair.cache.advance()
    plain = pair.decoder(x[:, None], positions, pair.plain)
    torch.testing.assert_close(pair.decoder(x[:, None], positions, pair.cache), plain)
