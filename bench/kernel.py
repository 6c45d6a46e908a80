"""Times the attention kernel against the plain path, at Janus-Pro's geometries: Triton's on a GPU, or the one in C++ on
the processor.

    python -m bench.kernel --batches 1 8 --kv-dtypes auto int8

A row of the table is the attention of one layer and one token, of `batch` pictures with guidance, two rows each, over
nearly full slots: the plain path, the kernel as the host calls it, and on a GPU the kernel in a CUDA graph as well, in
microseconds; the bytes of keys, values and scores that must be moved for it, and how many a second the kernel moves, in
the graph if there is one, beside what a plain copy does. It is no time of a whole step, most of which the weights take.
The paths take turns, so that whatever else the machine does slows them alike, and so many layers do that no cache holds
what comes next. `--block` and `--splits` try another division of the work on a GPU.
"""

from __future__ import annotations

import argparse
import functools
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from bench.arguments import count
from ssd_core.cache.cache import SlotCache
from ssd_core.cache.kernel_cache import KernelCache, MakeKernel, kernels_on, why_no_kernel
from ssd_core.cache.ranked import RankedSlots
from ssd_core.cache.storage import KV_DTYPES
from ssd_core.models.base import Geometry
from ssd_core.models.known import KNOWN
from ssd_core.models.placement import choose_dtype
from ssd_core.policies import H2O, Full, Policy

PROMPT = 24  # tokens
METHODS: dict[str, Policy] = {"full": Full(), "h2o 20 %": H2O(0.2)}  # without scores, and all heads with scores
TURNS = 2**29  # bytes of keys and values that take turns
# With the kernel's own step, no more passes than tokens between two rankings. The plain path's slots fill up meanwhile:
# it attends 2 % more than the kernel in the mean.
WARM_UP, PASSES = 3, 20
AT_ONCE = 5  # passes before the next path has its turn
BATCHES = {"cuda": [1, 8, 32, 64, 128], "cpu": [1, 4]}


@dataclass(frozen=True)
class Measured:
    """Seconds of one layer's attention, in a graph where there are graphs, and the bytes that it moves."""

    plain: float
    called: float
    in_graph: float | None
    bytes: int


def geometry_of(name: str) -> Geometry:
    shape = KNOWN[name]
    sizes = shape.decoder
    return Geometry(
        sizes.layers, sizes.heads, sizes.kv_heads, sizes.head_dim, shape.rows, shape.columns, shape.codebook
    )


def seconds(actions: Sequence[Callable[[], object]], device: torch.device, passes: int) -> list[float]:
    """Of a pass of each, which take turns."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    spent = [0.0] * len(actions)
    for done in range(0, passes, AT_ONCE):
        for place, action in enumerate(actions):
            wait()
            begun = time.perf_counter()
            for _ in range(min(AT_ONCE, passes - done)):
                action()
            wait()
            spent[place] += time.perf_counter() - begun
    return [each / passes for each in spent]


def copied(device: torch.device, size: int = TURNS) -> float:
    """Bytes that a copy reads and writes in a second."""
    source = torch.ones(size, dtype=torch.uint8, device=device)  # zeros may share one page of memory
    target = source.clone()
    (each,) = seconds([lambda: target.copy_(source)], device, PASSES)
    return 2 * size / each


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


def measure(cache: SlotCache, make: MakeKernel, passes: int = PASSES) -> Measured:
    geometry, device = cache.geometry, torch.device(cache.device)
    rows = sum(len(group.pairs) for group in cache.groups[0]) // geometry.kv_heads
    qkv = torch.randn(
        rows, 1, geometry.heads + 2 * geometry.kv_heads, geometry.head_dim, dtype=cache.dtype, device=device
    )
    layers = range(len(cache.layers))

    def attend(path: SlotCache | KernelCache) -> None:
        for layer in layers:
            path.attend(layer, qkv)

    warm_up = min(WARM_UP, passes)
    for _ in range(warm_up):
        attend(cache)
    own = KernelCache(cache, make)
    own.advance()
    size = moved(cache)
    actions: list[Callable[[], object]] = [functools.partial(attend, cache), functools.partial(attend, own)]
    for _ in range(warm_up):
        attend(own)
    if device.type == "cuda":
        actions.append(graph_of(actions[1]))
    plain, called, *in_graph = (each / len(layers) for each in seconds(actions, device, passes))
    return Measured(plain, called, in_graph[0] if in_graph else None, size)


def graph_of(action: Callable[[], object]) -> Callable[[], object]:
    """A CUDA graph of what was run before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()
    return graph.replay


def table_head(device: torch.device) -> str:
    graph = ("in a graph us",) if device.type == "cuda" else ()
    words = ("model", "method", "batch", "kv dtype", "plain us", "kernel us", *graph, "MB", "GB/s", "of a copy")
    return f"| {' | '.join(words)} |\n|{' --- |' * len(words)}"


def line(words: Sequence[str], measured: Measured, copy: float) -> str:
    """A row of the table; copy: bytes a second."""
    times = [each for each in (measured.plain, measured.called, measured.in_graph) if each is not None]
    rate = measured.bytes / times[-1]
    cells = [*words, *(f"{each * 1e6:.1f}" for each in times)]
    return f"| {' | '.join([*cells, f'{measured.bytes / 1e6:.2f}', f'{rate / 1e9:.0f}', f'{rate / copy:.0%}'])} |"


def name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.kernel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device",
        choices=[*BATCHES],
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="(%(default)s here)",
    )
    parser.add_argument("--models", nargs="+", choices=[*KNOWN], default=[*KNOWN])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--batches", nargs="+", type=count, help=f"({BATCHES})")
    parser.add_argument("--kv-dtypes", nargs="+", choices=[*KV_DTYPES], default=["auto", "int8"])
    parser.add_argument("--block", type=int, help="slots of a tile, a power of 2")
    parser.add_argument("--splits", type=int, help="programs for a pair's slots, a power of 2")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    division = {word: size for word in ("block", "splits") if (size := getattr(given, word))}
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here; leave --device out, or run this where there is one.")
    if division and device.type != "cuda":
        raise SystemExit("--block and --splits divide the work of Triton's kernel; leave them out on the processor.")
    dtype, copy = choose_dtype("auto", device), copied(device)
    print(f"{name_of(device)}, torch {torch.__version__}, {dtype}; a copy moves {copy / 1e9:.0f} GB/s\n")
    print(table_head(device))
    for name in given.models:
        geometry = geometry_of(name)
        for method in given.methods:
            for batch in given.batches or BATCHES[device.type]:
                for kv_dtype in given.kv_dtypes:
                    words = (name, method, str(batch), kv_dtype)
                    if reason := why_no_kernel(device, geometry, dtype, KV_DTYPES[kv_dtype]):
                        raise SystemExit(f"The kernel does not run here: {reason}.")
                    make = functools.partial(kernels_on(device)[0], **division)
                    try:
                        cache = filled(geometry, METHODS[method], 2 * batch, dtype, kv_dtype, device, PASSES)
                        measured = measure(cache, make)
                    except torch.OutOfMemoryError:
                        print(f"| {' | '.join(words)} | does not fit |", flush=True)
                        continue
                    print(line(words, measured, copy), flush=True)


if __name__ == "__main__":
    main()
