from __future__ import annotations

import pytest
import torch

from ssd_core import UserError
from ssd_core.models.placement import choose_device, choose_dtype, codec_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_auto_takes_the_processor_where_nothing_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device() == torch.device("cuda", 1)


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "cpu:x"])
def test_a_device_that_does_not_work_is_refused(device: str) -> None:
    with pytest.raises(UserError, match=f"device {device} does not work here"):
        choose_device(device)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ("bf16", torch.bfloat16),
        ("bfloat16", torch.bfloat16),
        ("fp16", torch.float16),
        ("float16", torch.float16),
        ("fp32", torch.float32),
        ("float32", torch.float32),
        (torch.float16, torch.float16),
        ("auto", torch.float32),
    ],
)
def test_dtypes_on_the_processor(given: str | torch.dtype, dtype: torch.dtype) -> None:
    assert choose_dtype(given, CPU) == dtype


@pytest.mark.parametrize("able", [True, False])
def test_auto_on_the_processor_is_bfloat16_where_files_and_processor_have_it(
    able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert choose_dtype("auto", CPU, torch.bfloat16) == (torch.bfloat16 if able else torch.float32)
    assert choose_dtype("auto", CPU, torch.float16) == torch.float32
    assert choose_dtype("fp32", CPU, torch.bfloat16) == torch.float32
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_dtype("auto", CPU, torch.bfloat16) == torch.float32


@pytest.mark.parametrize("given", ["int8", "FP8", torch.int64, torch.float64, ""])
def test_other_dtypes_are_refused(given: str | torch.dtype) -> None:
    with pytest.raises(UserError, match="'bf16', 'fp16' or 'fp32'"):
        choose_dtype(given, CPU)


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_auto_is_bfloat16_where_the_gpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype("auto", CUDA) == dtype


@pytest.mark.parametrize(
    ("dtype", "device", "own"),
    [
        (torch.bfloat16, CUDA, torch.bfloat16),
        (torch.float16, CUDA, torch.float32),
        (torch.float32, CUDA, torch.float32),
        (torch.bfloat16, CPU, torch.float32),
    ],
)
def test_the_codec_is_never_float16(dtype: torch.dtype, device: torch.device, own: torch.dtype) -> None:
    assert codec_dtype(dtype, device) == own
