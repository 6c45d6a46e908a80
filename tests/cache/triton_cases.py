"""What Triton's kernel must do, for tests/cache/test_triton_kernel.py to run: in Triton's interpreter, or else on a
GPU."""

from __future__ import annotations

import functools
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssd_core.cache import kernel_cache, triton_kernel
from ssd_core.cache.fixed import NUMBERS
from ssd_core.cache.kernel_cache import KernelCache, MakeKernel, failure, kernel_cache_for, kernels_on
from ssd_core.cache.storage import KV_DTYPES
from ssd_core.cache.table import FIELDS
from ssd_core.cache.triton_kernel import Tiling, TritonKernel
from ssd_core.models.base import Geometry
from ssd_core.policies import H2O, Full, Policy
from tests.bench.test_kernel import check_the_bench
from tests.cache.kernel_cases import SIZES, KernelCases, Mixed, check_alike, filled

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.device("cuda")
DEVICE = torch.device("cpu") if INTERPRETED else GPU
HAS_FP8 = INTERPRETED or (torch.version.hip is None and torch.cuda.get_device_capability() >= (8, 9))


class TestTritonKernel(KernelCases):
    device, on = DEVICE, GPU
    exact = {torch.float32: 1e-5 if INTERPRETED else 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}  # noqa: RUF012
    kinds = {word: kind for word, kind in KV_DTYPES.items() if word != "fp8" or HAS_FP8}  # noqa: RUF012

    def make(self, parts: int, block: int) -> MakeKernel:
        return functools.partial(TritonKernel, splits=parts, block=block)


@pytest.mark.skipif(INTERPRETED, reason="takes a GPU")
def test_it_is_the_kernel_of_this_gpu() -> None:
    cache = kernel_cache_for(filled(Full(), Geometry(1, *SIZES, 1, 4, 9), [3], torch.float32, "auto", DEVICE))
    assert cache
    assert isinstance(cache.kernel, TritonKernel)


@pytest.mark.skipif(INTERPRETED, reason="takes a GPU")
def test_a_graph_does_every_step() -> None:
    geometry = Geometry(1, 4, 2, 64, 3, 4, 9)
    plain, known = (filled(Mixed(4, 2, 2, 2), geometry, [3, 5], torch.float32, "auto", DEVICE) for _ in range(2))
    cache, random = KernelCache(known, TritonKernel), torch.Generator().manual_seed(0)
    qkv, graph = torch.empty(2, 1, 8, 64, device=DEVICE), torch.cuda.CUDAGraph()
    for step in range(9):
        qkv.copy_(torch.randn(qkv.shape, generator=random))
        cache.advance()
        if step == 0:
            answers = cache.attend(0, qkv)
        else:
            if step == 1:
                with torch.cuda.graph(graph):
                    cache.attend(0, qkv)
            graph.replay()
        torch.testing.assert_close(answers, plain.attend(0, qkv), rtol=1e-4, atol=1e-4)
    for own, other in zip(known.layers[0], plain.layers[0], strict=True):
        check_alike(own, other, 1e-4)


@pytest.mark.parametrize("part", ["attend_pairs", "merge_splits"])
def test_the_trial_finds_a_part_that_fails(
    part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def __getitem__(self, programs: tuple[int, ...]) -> None:
            raise RuntimeError("no compiler\nand much more")

    monkeypatch.setattr(triton_kernel, part, Broken())
    monkeypatch.setattr(kernel_cache, "kernels_on", lambda device: kernels_on(GPU))
    assert failure.__wrapped__(DEVICE, torch.float32, None, *SIZES) == "no compiler"
    assert caplog.messages == [f"The attention kernel does not run on {DEVICE}, and is done without: no compiler"]


@given(
    programs=st.integers(1, 10_000),
    slots=st.integers(1, 5000),
    dim=st.integers(1, 300),
    multiprocessors=st.integers(1, 200),
)
def test_work_is_divided_by_powers_of_2(programs: int, slots: int, dim: int, multiprocessors: int) -> None:
    tiling = Tiling.of(programs, slots, dim, multiprocessors)
    for size in (tiling.block, tiling.splits):
        assert size >= 1
        assert size & (size - 1) == 0
    if tiling.splits > 1:
        assert tiling.splits * programs <= triton_kernel.RESIDENT * multiprocessors
        assert slots >= 2 * tiling.block * tiling.splits
    assert Tiling.of(32, 600, 64, 132) == Tiling(64, 4)
    assert Tiling.of(4096, 600, 128, 132) == Tiling(32, 1)


def test_bytes_are_those_of_the_tensors() -> None:
    geometry = Geometry(2, 4, 2, 8, 3, 4, 9)

    def cache_of(policy: Policy, splits: int) -> KernelCache:
        cache = filled(policy, geometry, [3, 4], torch.bfloat16, "auto", DEVICE)
        return KernelCache(cache, functools.partial(TritonKernel, block=16, splits=splits))

    answers, table, state = 2 * 4 * 8 * 2, 2 * 4 * FIELDS * 8, 2 * NUMBERS * 4
    parts, sums = 4 * 2 * 2 * 8 * 4, 4 * 2 * 2 * 2 * 4
    assert cache_of(Full(), 2).nbytes == answers + table + state + parts + sums
    assert cache_of(H2O(1.0), 1).nbytes == answers + table + state + (parts + sums) // 2 + 4 * 2 * 15 * 4


def test_the_bench_measures_it() -> None:
    check_the_bench(DEVICE, functools.partial(TritonKernel, block=2, splits=2))
