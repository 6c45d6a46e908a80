"""Triton's kernel compiled for GPUs that are not here, for tests/cache/test_triton_kernel.py to run: no interpreter
looks at types, at how memory is read, or at what a GPU has."""

from __future__ import annotations

import re
import struct

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ssd_core.cache import triton_kernel

TYPES = {"table": "i64", "state": "i32"}  # of what they point to; of others float32


def compiled(
    function: triton.JITFunction, arch: int | str, dtype: str, stored: str, splits: int = 1, dim: int = 128
) -> str:
    """The PTX of a function for keys and values of precision `stored`, queries of `dtype`, or AMD's assembly."""
    constants = {
        "HEADS": 16,
        "KV_HEADS": 16,
        "DIM": dim,
        "BLOCK_DIM": dim,
        "BLOCK": 32,
        "BLOCK_GROUP": 1,
        "SPLITS": splits,
        "LARGEST": {"i8": 127.0, "fp8e4nv": 448.0}.get(stored, 0.0),
        "SCORED": True,
        "ALIGNED": triton_kernel.VECTOR_BYTES,
        "STAGES": triton_kernel.STAGES,
    }
    types = {**TYPES, "qkv": dtype, "answers": dtype, "stored": stored}
    numbers = {"factor": "fp32", "widest": "i32"}
    signature, own, aligned = {}, {}, {}
    for place, name in enumerate(function.arg_names):
        if name in constants:
            signature[name], own[place,] = "constexpr", constants[name]
        else:
            signature[name] = numbers.get(name) or "*" + types.get(name, "fp32")
            if name not in numbers:
                aligned[place,] = [["tt.divisibility", 16]]
    source = ASTSource(function, signature, own, aligned)
    options = {"num_warps": triton_kernel.WARPS, "enable_fp_fusion": True}
    amd = isinstance(arch, str)
    target = GPUTarget("hip", arch, 64) if amd else GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=options).asm["amdgcn" if amd else "ptx"]


@pytest.mark.parametrize("stored", ["bf16", "i8", "fp8e4nv"])
@pytest.mark.parametrize("splits", [1, 8])
def test_keys_and_values_come_in_whole_vectors(stored: str, splits: int) -> None:
    ptx = compiled(triton_kernel.attend_pairs, 90, "bf16", stored, splits)
    copies = re.findall(r"cp\.async\.\S+ \[.*?\], \[.*?\], (0x[0-9a-f]+)", ptx)
    assert set(copies) == {hex(triton_kernel.VECTOR_BYTES)}
    # a tile of keys and one of values, before the loop and in it
    tile = 32 * 128 * (2 if stored == "bf16" else 1)
    assert len(copies) == 2 * 2 * tile // (triton_kernel.WARPS * 32 * triton_kernel.VECTOR_BYTES)


@pytest.mark.parametrize(("stored", "whole"), [("i8", 1.5 * 2.0**23), ("fp8e4nv", 1.5 * 2.0**14)])
def test_a_number_is_rounded_twice_as_on_the_plain_path(stored: str, whole: float) -> None:
    """First the product with the scale, then the sum that leaves no fraction; never both as one operation."""
    (number,) = struct.unpack("<I", struct.pack("<f", whole))
    ptx = compiled(triton_kernel.attend_pairs, 90, "bf16", stored)
    assert set(re.findall(rf"(\S+) .*, 0f{number:08X}", ptx)) == {"add.f32"}


@pytest.mark.parametrize(
    ("arch", "dtype"), [(75, "fp16"), (80, "bf16"), (89, "fp32"), (90, "fp16"), (100, "bf16"), (120, "fp16")]
)
def test_other_precisions_and_gpus(arch: int, dtype: str) -> None:
    assert f".target sm_{arch}" in compiled(triton_kernel.attend_pairs, arch, dtype, dtype, dim=64)


@pytest.mark.parametrize("arch", ["gfx90a", "gfx942"])
def test_gpus_of_amd(arch: str) -> None:
    assert f'-{arch}"' in compiled(triton_kernel.attend_pairs, arch, "bf16", "bf16", dim=64)


def test_splits_are_merged() -> None:
    assert "merge_splits" in compiled(triton_kernel.merge_splits, 90, "bf16", "bf16", splits=8)


def test_numbers_that_a_gpu_does_not_have_are_refused() -> None:
    with pytest.raises(triton.CompilationError, match="fp8e4nv not supported"):
        compiled(triton_kernel.attend_pairs, 80, "bf16", "fp8e4nv")
