from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_core.cache.attention import attend_slots
from ssd_core.cache.storage import KV_DTYPES, LARGEST, QuantizedStorage, check_kv_dtype, quantize
from ssd_core.errors import UserError
from tests.table import check_sentence

KINDS = [kind for kind in KV_DTYPES.values() if kind]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=["int8", "fp8"])
COUNT, SLOTS, DIM = 5, 9, 8


def storage_of(kind: torch.dtype, dtype: torch.dtype = torch.float32) -> QuantizedStorage:
    """A storage in a room that is larger than it needs."""
    return QuantizedStorage(kind, torch.empty(COUNT * SLOTS + 3, DIM, dtype=dtype), COUNT, SLOTS, DIM, dtype, "cpu")


@each_kind
@given(
    vector=st.lists(st.floats(-6e4, 6e4, width=16), min_size=1, max_size=9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_a_number_is_off_by_half_a_step(kind: torch.dtype, vector: list[float], dtype: torch.dtype) -> None:
    x = torch.tensor(vector, dtype=dtype)
    numbers, scale = quantize(x, kind)
    assert (numbers.dtype, scale.dtype, scale.shape) == (kind, torch.bfloat16, (1,))
    back = numbers.double() * scale.double() / LARGEST[kind]
    most = x.double().abs().max()
    if kind is torch.int8:
        off = most * (0.5 / 127)
    else:  # three bits behind the point, down to the smallest number
        off = torch.maximum(x.double().abs() * 2**-4, most / 448 * 2**-10)
    assert ((back - x.double()).abs() <= off * (1 + 2**-7) + 2**-99).all()


@each_kind
def test_a_vector_of_nothing_stays_nothing(kind: torch.dtype) -> None:
    numbers, scale = quantize(torch.zeros(3, DIM), kind)
    assert (numbers.float() * scale.float() == 0).all()


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("held", [4, SLOTS])
def test_attention_is_that_over_the_numbers_times_their_scales(
    kind: torch.dtype, dtype: torch.dtype, held: int
) -> None:
    random, storage = torch.Generator().manual_seed(0), storage_of(kind, dtype)
    kv = torch.randn(2, COUNT, held, DIM, generator=random)
    kv[0] *= 40  # so that in half precision a product of bytes would run over
    q = torch.randn(COUNT, 2, DIM, generator=random) / 10
    q[0] *= 1000
    storage.fill(torch.arange(held), kv.to(dtype))
    output = torch.empty(COUNT, 2, DIM, dtype=dtype)
    weights = storage.attend(q.to(dtype), held, output)
    read = storage.read()[:, :, :held].float()
    expected_weights, expected = attend_slots(q.to(dtype).float(), *read)
    close = 1e-5 if dtype is torch.float32 else 0.02
    assert (weights.dtype, weights.shape) == (torch.float32, (COUNT, 2, held))
    torch.testing.assert_close(weights[1:], expected_weights[1:], rtol=0, atol=close)
    torch.testing.assert_close(output[1:].float(), expected[1:], rtol=0, atol=2 * close)
    assert output.isfinite().all()


@each_kind
def test_a_token_is_kept_as_a_prompt_s_token_is(kind: torch.dtype) -> None:
    kv, one, other = torch.randn(2, COUNT, SLOTS, DIM), storage_of(kind), storage_of(kind)
    order = torch.randperm(SLOTS)
    one.fill(order, kv)
    for token, slot in enumerate(order.tolist()):
        other.put(slot, kv[:, :, token])
    assert all(mine.equal(yours) for mine, yours in zip(one.parts, other.parts, strict=True))
    numbers, scale = quantize(kv, kind)
    assert one.read()[:, :, order].equal(numbers.float() * (scale.float() / LARGEST[kind]))


def test_a_precision_is_a_byte_a_number_and_two_bytes_a_scale() -> None:
    for kind in KINDS:
        assert storage_of(kind).nbytes == 2 * COUNT * SLOTS * (DIM + 2)


def test_unknown_words_are_refused() -> None:
    for word in KV_DTYPES:
        check_kv_dtype(word)
    for word in ("int4", "", "bf16", "float8"):
        with pytest.raises(UserError, match="kv_dtype is auto, int8, fp8") as refusal:
            check_kv_dtype(word)
        check_sentence(refusal.value)


@pytest.mark.parametrize("error", [TypeError, RuntimeError], ids=["MPS", "elsewhere"])
def test_a_precision_that_the_device_does_not_have_is_refused(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lacking:
        def to(self, kind: torch.dtype) -> torch.Tensor:
            if kind is torch.float8_e4m3fn:
                raise error("Trying to convert Float8_e4m3fn to a backend that does not have support for that dtype.")
            return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", lambda *_, device: Lacking())
    check_kv_dtype("int8", "mps")
    check_kv_dtype("auto", "mps")
    with pytest.raises(UserError, match="cannot keep fp8 on mps; choose another") as refusal:
        check_kv_dtype("fp8", "mps")
    check_sentence(refusal.value)
