"""Times the kernel against the plain path on a GPU, at Janus-Pro's geometries.

    python -m bench.kernel --batches 1 8 32 64 128 --kv-dtypes auto int8

A row of the table is the attention of one layer and one token, of `batch` pictures with guidance, two rows each: the
plain path, the kernel launched by the host, and the kernel in a CUDA graph, in microseconds; the bytes that must be
moved for it, and how many a second the kernel in the graph moves, beside what a plain copy does. So many layers take
turns that no cache of the GPU holds what comes next. `--block` and `--splits` try another division of the work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ssd_core.cache.cache import SlotCache
from ssd_core.cache.kernel_cache import KernelCache, kernel_cache_for, tiling_for
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.storage import KV_DTYPES
from ssd_core.models.base import Geometry
from ssd_core.models.known import KNOWN
from ssd_core.policies import H2O, Full, Policy

PROMPT = 24  # tokens
METHODS: dict[str, Policy] = {"full": Full(), "h2o 20 %": H2O(0.2)}  # without scores, and all heads with scores
TURNS = 2**29  # bytes of keys and values that take turns
WARM_UP, PASSES = 3, 20  # with the kernel's own step, no more than the tokens between two rankings


@dataclass(frozen=True)
class Measured:
    """Seconds of one layer's attention, and the bytes that it moves."""

    plain: float
    launched: float
    in_graph: float
    bytes: int


def geometry_of(name: str) -> Geometry:
    shape = KNOWN[name]
    sizes = shape.decoder
    return Geometry(
        sizes.layers, sizes.heads, sizes.kv_heads, sizes.head_dim, shape.rows, shape.columns, shape.codebook
    )


def seconds(action: Callable[[], object], device: torch.device, passes: int) -> float:
    """Of one of many passes, after some to warm up."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for _ in range(min(WARM_UP, passes)):
        action()
    wait()
    begun = time.perf_counter()
    for _ in range(passes):
        action()
    wait()
    return (time.perf_counter() - begun) / passes


def copied(device: torch.device, size: int = TURNS) -> float:
    """Bytes that a copy reads and writes in a second."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, PASSES)


def moved(cache: SlotCache) -> int:
    """Bytes of a layer's filled slots that are read, and of the scores that are read and written."""
    return sum(
        slots.held * slots.kv_bytes // slots.keep.slots
        + (2 * slots.score[:, : slots.held].nbytes if isinstance(slots, RankedSlots) else 0)
        for slots in cache.layers[0]
    )


def filled(
    geometry: Geometry,
    policy: Policy,
    rows: int,
    dtype: torch.dtype,
    kv_dtype: str,
    device: torch.device,
    passes: int,
    prompt: int = PROMPT,
    turns: int = TURNS,
) -> SlotCache:
    """Slots, nearly full, of so many layers that they are `turns` bytes, of two layers at least."""
    one = SlotCache(policy, replace(geometry, layers=1), [prompt] * rows, dtype, device, kv_dtype)
    layers = min(geometry.layers, max(2, -(-turns // one.kv_bytes)))
    one.free()
    cache = SlotCache(policy, replace(geometry, layers=layers), [prompt] * rows, dtype, device, kv_dtype)
    tokens = torch.randn(2, rows * geometry.kv_heads, prompt, geometry.head_dim, device=device, dtype=dtype)
    for slots in (slots for layer in cache.layers for slots in layer):
        slots.fill(*tokens[:, : slots.kv.shape[1]])
        for part in slots.storage.parts:  # what no token wrote must be numbers, too
            part[:, :, prompt:] = part[:, :, :1]
    cache.skip(max(0, geometry.tokens - 2 - WARM_UP - passes))
    return cache


def measure(
    cache: SlotCache, passes: int = PASSES, block: int | None = None, splits: int | None = None
) -> Measured | None:
    """None where the kernel does not run."""
    geometry, device = cache.geometry, torch.device(cache.device)
    rows = sum(len(group.pairs) for group in cache.groups[0]) // geometry.kv_heads
    qkv = torch.randn(
        rows, 1, geometry.heads + 2 * geometry.kv_heads, geometry.head_dim, dtype=cache.dtype, device=device
    )
    layers = range(len(cache.layers))
    plain = seconds(lambda: [cache.attend(layer, qkv) for layer in layers], device, passes)
    if device.type == "cuda" and kernel_cache_for(cache) is None:
        return None
    tiling = tiling_for(geometry, rows * geometry.kv_heads, max(slots.keep.slots for slots in cache.layers[0]), device)
    own = KernelCache(cache, replace(tiling, block=block or tiling.block, splits=splits or tiling.splits))
    own.advance()

    def attend() -> None:
        for layer in layers:
            own.attend(layer, qkv)

    launched = seconds(attend, device, passes)
    in_graph = seconds(graph_of(attend) if device.type == "cuda" else attend, device, passes)
    return Measured(plain / len(layers), launched / len(layers), in_graph / len(layers), moved(cache))


def graph_of(action: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of what was run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


def line(words: Sequence[str], measured: Measured, copy: float) -> str:
    """A row of the table; copy: bytes a second."""
    times = (f"{each * 1e6:.1f}" for each in (measured.plain, measured.launched, measured.in_graph))
    rate = measured.bytes / measured.in_graph
    cells = (*words, *times, f"{measured.bytes / 1e6:.2f}", f"{rate / 1e9:.0f}", f"{rate / copy:.0%}")
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.kernel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=[*KNOWN], default=[*KNOWN])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64, 128])
    parser.add_argument("--kv-dtypes", nargs="+", choices=[*KV_DTYPES], default=["auto", "int8"])
    parser.add_argument("--block", type=int, help="slots of a tile, a power of 2")
    parser.add_argument("--splits", type=int, help="programs for a pair's slots, a power of 2")
    given = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("The kernel is timed on a GPU, and torch sees none here; run this where there is one.")
    device, dtype = torch.device("cuda"), torch.bfloat16
    copy = copied(device)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; a copy moves {copy / 1e9:.0f} GB/s\n")
    print("| model | method | batch | kv dtype | plain us | kernel us | in a graph us | MB | GB/s | of a copy |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in given.models:
        for method in given.methods:
            for batch in given.batches:
                for kv_dtype in given.kv_dtypes:
                    words = (name, method, str(batch), kv_dtype)
                    try:
                        cache = filled(geometry_of(name), METHODS[method], 2 * batch, dtype, kv_dtype, device, PASSES)
                        measured = measure(cache, block=given.block, splits=given.splits)
                    except torch.OutOfMemoryError:
                        print(f"| {' | '.join(words)} | does not fit |", flush=True)
                        continue
                    if measured is None:
                        raise SystemExit("The kernel does not run here; install Triton, or see the warning above.")
                    print(line(words, measured, copy), flush=True)


if __name__ == "__main__":
    main()
