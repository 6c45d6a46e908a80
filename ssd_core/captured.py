"""The turn as one CUDA graph: captured once a drawing, and launched as a whole for each token.

A turn is several hundred small kernels, each of which Python would launch anew. The graph launches them at once, so the
device no longer waits for the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import cache, partial
from threading import Lock
from typing import Protocol

import torch

from .cache.cache import SlotCache
from .cache.kernel_cache import kernel_cache_for
from .cache.masked import MaskedCache
from .models.placement import first_line
from .turn import Step, Turn

WARM_UP = 2  # turns in which libraries make what may not be made during a capture
BUSY = Lock()  # warm-ups and captures share a stream, and torch's cudaMallocAsync knows one capture at a time


class Graph(Protocol):
    """What was captured."""

    def replay(self) -> None: ...

    def reset(self) -> None: ...


class CapturedStep(Step):
    """The first turns run as they are, and are the drawing's own; then one turn is captured and replayed.

    Slots that will move are not captured before they have. Where the capture fails, the drawing goes on plainly.
    """

    def __init__(self, turn: Turn, cache: SlotCache) -> None:
        super().__init__(turn, cache, "plain: the drawing ended before its step was captured")
        self.turns = self.take()

    def __call__(self, most: int = 1) -> int:
        next(self.turns)
        return 1

    def close(self) -> None:
        self.turns.close()

    def take(self) -> Generator[None]:
        """Take a turn each time it is asked for the next."""
        while self.cache.grows:
            self.turn.draw(self.cache)
            yield
        kernel = kernel_cache_for(self.cache)
        fixed = kernel or MaskedCache(self.cache)
        graphs = graphs_on(self.turn.model.device)
        draw = partial(self.turn.draw, fixed)
        for _ in range(WARM_UP):
            fixed.advance()
            graphs.warm_up(draw)
            yield
        fixed.advance()
        try:
            graph = graphs.capture(draw)
        except Exception as error:  # noqa: BLE001  # whatever it is: the turn has not been taken yet
            self.told = f"plain: its step could not be captured ({first_line(error)})"
        else:
            self.is_captured = True
            self.told = "graph, attention by Triton's kernel" if kernel else "graph"
            try:
                while True:
                    graph.replay()
                    yield
                    fixed.advance()
            finally:
                graph.reset()
        draw()
        while True:
            yield
            self.turn.draw(self.cache)


class CudaGraphs:
    """torch's CUDA graphs on one device.

    Other threads may use CUDA meanwhile ("thread_local"). torch captures with either of its allocators. Its own keeps a
    graph's memory in a pool, which is free again once the graph is reset and nothing else holds on to it. With
    PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync allocations become nodes of the graph, whatever pool is named.
    """

    def __init__(self, device: torch.device) -> None:
        # One for all drawings: the linear algebra libraries keep room for each stream they have seen. Warm-up and
        # capture share it, so that what the former makes serves the latter.
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], object]) -> None:
        """Run it on the stream on which the capture will be."""
        main = torch.cuda.current_stream(self.stream.device)
        with BUSY:
            self.stream.wait_stream(main)
            try:
                with torch.cuda.stream(self.stream):
                    work()
            finally:
                main.wait_stream(self.stream)

    def capture(self, work: Callable[[], object]) -> Graph:
        """Note what it would do on the device, and do nothing of it."""
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        how = torch.cuda.graph(graph, pool, self.stream, capture_error_mode="thread_local")
        with BUSY, torch.cuda.stream(self.stream):  # which a capture that fails would leave as the current one
            try:
                with how:
                    work()
            except BaseException:
                # torch's allocator goes on with a capture that CUDA has given up, unless it is told
                with suppress(RuntimeError):  # where it knows already
                    torch._C._cuda_endAllocateToPool(self.stream.device.index, pool)
                    torch._C._cuda_releasePool(self.stream.device.index, pool)
                raise
        return graph


@cache
def graphs_on(device: torch.device) -> CudaGraphs:
    """The device's graphs."""
    return CudaGraphs(device)
