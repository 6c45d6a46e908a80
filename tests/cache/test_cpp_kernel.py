"""What the kernel in C++ must do: what any kernel does, and what lies behind its vectors of 16 numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ssd_core.cache.cache import SlotCache
from ssd_core.cache.cpp_kernel import CppKernel, attend_pairs, run
from ssd_core.cache.kernel_cache import DTYPES, Kernel, KernelCache, MakeKernel, kernel_cache_for, why_no_kernel
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.storage import KV_DTYPES, QuantizedStorage, Storage
from ssd_core.cache.table import FIELDS
from ssd_core.errors import UserError
from ssd_core.models.base import Geometry
from ssd_core.native.build import MOST_DIM, WIDE
from ssd_core.policies import H2O, Full
from tests.cache.kernel_cases import KernelCases, check_alike, filled, needs_compiler
from tests.table import check_sentence

pytestmark = needs_compiler
CPU = torch.device("cpu")
EXACT = {torch.float32: 1e-5, torch.bfloat16: 0.02, torch.float16: 0.003}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_kv_dtype = pytest.mark.parametrize("kv_dtype", [*KV_DTYPES])


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TestCppKernel(KernelCases):
    device = on = CPU
    exact = EXACT

    def make(self, parts: int, block: int) -> MakeKernel:
        def on_threads(cache: SlotCache, pairs: int, slots: int, scored: bool) -> Kernel:
            with threads(parts):
                return CppKernel(cache, pairs, slots, scored)

        return on_threads


def with_tokens(kv: Tensor, dtype: torch.dtype = torch.float32, group: int = 1) -> SlotCache:
    """Slots of one layer, all with scores, for the tokens [2, kv_heads, S, D] and one more."""
    _, heads, tokens, dim = kv.shape
    geometry = Geometry(1, heads * group, heads, dim, 1, 3, 9)
    cache = SlotCache(H2O(1.0), geometry, [tokens + 1], dtype, CPU)
    cache.layers[0][0].fill(*kv.to(dtype))
    return cache


def step(cache: KernelCache, qkv: Tensor) -> Tensor:
    """The answers to a token, qkv [heads + 2 * kv_heads, D]."""
    cache.advance()
    return cache.attend(0, qkv[None, None]).clone()[0, 0]


def shares_of(cache: KernelCache) -> Tensor:
    """The attention that each token has received, of slots that are all alike: [pairs, held]."""
    (slots,) = cache.cache.layers[0]
    assert isinstance(slots, RankedSlots)
    return slots.score[:, : slots.held] / slots.unit


def exactly(q: Tensor, kv: Tensor) -> tuple[Tensor, Tensor]:
    """Answers and attention rows in float64: queries [heads, D], kv [2, kv_heads, S, D]."""
    keys, values = kv.double().repeat_interleave(len(q) // kv.shape[1], 1)
    weights = (keys @ q.double()[..., None] / math.sqrt(q.shape[-1])).softmax(1)
    return (weights * values).sum(1), weights[..., 0]


@each_dtype
@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 31, 32, 33, 47, 100, 1000, 1009, 2048])
def test_any_number_of_slots(tokens: int, dtype: torch.dtype) -> None:
    """Less than a vector of them, whole vectors, and what is left over."""
    random = torch.Generator().manual_seed(tokens)
    kv, token = (torch.randn(*shape, generator=random).to(dtype) for shape in ((2, 3, tokens - 1, 32), (12, 32)))
    cache = KernelCache(with_tokens(kv, dtype, group=2), CppKernel)
    answers = step(cache, token)
    q, newest = token[:6], token[6:].view(2, 3, 1, 32)
    expected, weights = exactly(q, torch.cat([kv, newest], 2))
    torch.testing.assert_close(answers, expected.to(dtype), rtol=EXACT[dtype], atol=EXACT[dtype])
    torch.testing.assert_close(shares_of(cache), weights.view(3, 2, -1).sum(1).float(), rtol=1e-4, atol=1e-7)


@each_kv_dtype
@each_dtype
@pytest.mark.parametrize("dim", [1, 15, 17, 33, 48, 511, 512])
def test_any_width_at_any_address(dim: int, dtype: torch.dtype, kv_dtype: str) -> None:
    """Widths that are no multiple of a vector, the widest, and nothing where a vector would begin."""
    geometry = Geometry(1, 4, 2, dim, 1, 3, 9)
    plain, known = (filled(H2O(1.0), geometry, [4, 19], dtype, kv_dtype, CPU) for _ in range(2))
    for slots in known.layers[0]:
        shift_storage(slots.storage)
    cache, random = KernelCache(known, CppKernel), torch.Generator().manual_seed(1)
    for _ in range(3):
        qkv = shifted(torch.randn(2, 1, 8, dim, generator=random).to(dtype))
        assert qkv.data_ptr() % WIDE
        cache.advance()
        expected = plain.attend(0, qkv)
        torch.testing.assert_close(cache.attend(0, qkv), expected, rtol=EXACT[dtype], atol=EXACT[dtype])
    for own, other in zip(known.layers[0], plain.layers[0], strict=True):
        check_alike(own, other, EXACT[dtype])


def shifted(part: Tensor) -> Tensor:
    """The same, at an address that is a multiple of nothing but a number's size."""
    whole = torch.empty(part.numel() + 1, dtype=part.dtype)
    return whole[1:].view(part.shape).copy_(part)


def shift_storage(storage: Storage) -> None:
    storage.kv = shifted(storage.kv)
    storage.keys, storage.values = storage.kv
    storage.parts = [storage.kv]
    if isinstance(storage, QuantizedStorage):
        storage.scale = shifted(storage.scale)
        storage.parts, storage.numbers = [storage.kv, storage.scale], storage.kv.view(storage.kind)


def test_heads_that_are_too_wide_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    sizes = (1, 2, 2, MOST_DIM + 1, 1, 4, 9)
    with pytest.raises(
        UserError, match=r"takes heads of 512 numbers at most, not of 513; draw with a plain step\."
    ) as e:
        CppKernel(filled(Full(), Geometry(*sizes), [3], torch.float32, "auto", CPU), 2, 6, False)
    check_sentence(e.value)
    reason = why_no_kernel(CPU, Geometry(*sizes), torch.float32)
    assert reason == str(e.value).rstrip(".")
    assert caplog.messages == [f"The attention kernel does not run on cpu, and is done without: {reason}"]
    # planning counts what would be, and computes nothing
    planned = SlotCache(Full(), Geometry(*sizes), [3], torch.float32, "meta")
    assert CppKernel(planned, 2, 6, False).nbytes == torch.get_num_threads() * 256 * 4


@each_kv_dtype
def test_threads_change_nothing(kv_dtype: str) -> None:
    geometry = Geometry(1, 6, 3, 64, 1, 4, 9)
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(4, 5, 1, 12, 64, generator=random)
    ended = []
    for count in (1, 2, 7):
        cache = filled(H2O(1.0), geometry, [3, 700, 600, 600, 500], torch.float32, kv_dtype, CPU)
        with threads(count):
            kernel = KernelCache(cache, CppKernel)
        answers = []
        for qkv in tokens:
            kernel.advance()
            answers.append(kernel.attend(0, qkv).clone())
        ended.append([*answers, *(slots.score for slots in cache.layers[0] if isinstance(slots, RankedSlots))])
    assert len(ended[0]) == 4 + 4
    for other in ended[1:]:
        assert all(one.equal(two) for one, two in zip(ended[0], other, strict=True))


def test_each_thread_has_room_of_its_own() -> None:
    with threads(2):
        cache = KernelCache(
            filled(Full(), Geometry(1, 8, 8, 64, 1, 4, 9), [500], torch.float32, "auto", CPU), CppKernel
        )
    assert isinstance(cache.kernel, CppKernel)
    cache.advance()
    written = torch.zeros(2, dtype=torch.bool)
    for _ in range(1000):  # on a busy machine one of them may come too late for any of the work
        cache.kernel.room.fill_(torch.nan)
        cache.attend(0, torch.randn(1, 1, 24, 64))
        written |= ~cache.kernel.room.isnan().all(1)
        if written.all():
            return
    pytest.fail("only one of them ever wrote")


@given(
    logits=st.lists(st.floats(-(2.0**126), 2.0**126, width=32), min_size=2, max_size=40),
    scale=st.sampled_from([1.0, 1e-3, 1e-6, 1e-20, 1e-36]),
)
def test_weights_are_right_to_the_last_bits(logits: list[float], scale: float) -> None:
    """With heads of one number, and 1 for the query, keys are the logits themselves."""
    check_weights(torch.tensor(logits) * scale)


@pytest.mark.parametrize(
    "logits",
    [
        torch.linspace(-87, 0, 2000),
        torch.linspace(-1, 0, 2000),
        torch.zeros(50),
        torch.full((50,), -3e38),
        torch.full((50,), 3e38),
        torch.tensor([-3e38, 1e38] * 20),
        torch.tensor([1e4, 1e4 - 1, -1e4, 0.0]),
        torch.tensor([-500.0, -501.0, -700.0]),
    ],
    ids=["down to nothing", "close", "zero", "far below", "far above", "far apart", "large", "small"],
)
def test_weights_of_extreme_logits(logits: Tensor) -> None:
    check_weights(logits)


def check_weights(logits: Tensor) -> None:
    values = torch.linspace(-3, 5, len(logits))
    kv = torch.stack([logits, values])[:, None, :, None]
    cache = KernelCache(with_tokens(kv[:, :, :-1]), CppKernel)
    (answer,) = step(cache, torch.stack([torch.ones(1), logits[-1:], values[-1:]]))
    weights = (logits - logits.max()).double().softmax(0)  # no float32 says better how far they are apart
    (own,) = shares_of(cache).double()
    # relative to each weight, as far down as there are float32 numbers of full precision
    torch.testing.assert_close(own, weights, rtol=5e-7, atol=2e-38)
    torch.testing.assert_close(answer.double(), (weights @ values.double())[None], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_number_is_read_and_written_as_it_is(dtype: torch.dtype) -> None:
    """From the largest to the smallest, infinities and what is no number among them: a token alone is its answer."""
    values = torch.arange(-(2**15), 2**15).short().view(dtype).view(-1, 64)
    heads = len(values)
    cache = KernelCache(SlotCache(Full(), Geometry(1, heads, heads, 64, 1, 2, 9), [1], dtype, CPU), CppKernel)
    answers = step(cache, torch.cat([values.new_zeros(2 * heads, 64), values]))
    assert answers.isnan().equal(values.isnan())
    assert answers.nan_to_num(0, math.inf, -math.inf).equal(values.nan_to_num(0, math.inf, -math.inf))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_answers_are_rounded_to_the_nearest(sign: int, dtype: torch.dtype) -> None:
    """Each number and the next one have the same weight: of the two, their middle is rounded to the even one."""
    bits = torch.arange(0x7C00).short().view(-1, 64)
    lower, upper = bits.view(dtype) * sign, (bits + 1).view(dtype) * sign
    nothing = torch.zeros_like(lower)
    cache = KernelCache(with_tokens(torch.stack([nothing, lower])[:, :, None], dtype), CppKernel)
    answers = step(cache, torch.cat([nothing, nothing, upper]))
    assert answers.equal(((lower.double() + upper.double()) / 2).to(dtype))


@each_kv_dtype
@each_dtype
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_seen_in_the_answers(wrong: float, part: str, dtype: torch.dtype, kv_dtype: str) -> None:
    """A model that computed nonsense must not look as if it had not: its pictures would be drawn all the same."""
    geometry = Geometry(1, 2, 2, 32, 1, 3, 9)
    plain, known = (filled(Full(), geometry, [20], dtype, kv_dtype, CPU) for _ in range(2))
    qkv = torch.randn(1, 1, 6, 32, generator=torch.Generator().manual_seed(3)).abs().to(dtype)
    qkv[0, 0, ["query", "_", "key", "_", "value"].index(part), 7] = wrong
    cache = KernelCache(known, CppKernel)
    cache.advance()
    answers, expected = cache.attend(0, qkv)[0, 0], plain.attend(0, qkv)[0, 0]
    assert not expected[0].isfinite().all()
    assert expected[1].isfinite().all()
    assert answers.isfinite().equal(expected.isfinite())


def test_compiled_steps_call_it_as_an_operator() -> None:
    geometry = Geometry(1, 2, 2, 16, 1, 3, 9)
    one, two = (KernelCache(filled(Full(), geometry, [5], torch.float32, "auto", CPU), CppKernel) for _ in range(2))
    qkv = torch.randn(1, 1, 6, 16)
    for cache, call in ((one, run), (two, attend_pairs)):
        cache.advance()
        assert isinstance(cache.kernel, CppKernel)
        kernel = cache.kernel
        call(qkv, cache.answers, cache.tables[0], cache.state, kernel.room, *kernel.dtypes, kernel.sizes)
    assert one.answers.equal(two.answers)
    assert one.answers.abs().sum() > 0


def test_it_is_the_kernel_of_the_processor() -> None:
    cache = kernel_cache_for(filled(H2O(1.0), Geometry(2, 2, 2, 16, 1, 3, 9), [5], torch.float32, "auto", CPU))
    assert cache
    assert isinstance(cache.kernel, CppKernel)


def test_bytes_are_those_of_the_tensors() -> None:
    geometry, answers = Geometry(2, 4, 2, 8, 3, 4, 9), 2 * 4 * 8 * 2
    with threads(3):
        cache = KernelCache(filled(Full(), geometry, [3, 4], torch.bfloat16, "auto", CPU), CppKernel)
    table, state, room = 2 * 4 * FIELDS * 8, 2 * 4 * 4, 3 * 256 * 4  # for 15 slots at most
    assert cache.nbytes == answers + table + state + room
