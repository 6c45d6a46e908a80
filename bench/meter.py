"""What the live meter costs the token loop: drawings with and without it in turn, in one run.

    python -m bench.meter --repeats 30

The nodes' own meter runs against stand-ins for ComfyUI; a thread of its own turns the messages into JSON, as ComfyUI's
server does beside a drawing. Every drawing tells its progress row by row, as the sampler does; half of them have the
meter too. Drawings differ by more than the meter's cost where other programs run as well, so the table compares the
fastest of each kind, and gives the time spent inside the meter, summed over a drawing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import ssd_core
from ssd_core import Memory
from tests.nodes import stand_in

PROGRESS = "progress"


class Server(stand_in.PromptServer):
    """Hands messages to the thread that writes them, as ComfyUI's does."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.messages = self.bytes = 0
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.loop.call_soon_threadsafe(self.write, event, data)

    def write(self, event: str, data: Any) -> None:
        size = len(json.dumps({"type": event, "data": data}))
        if event != PROGRESS:
            self.messages += 1
            self.bytes += size


def meter_of(pack: Any, device: torch.device) -> Any:
    """A meter as the sampler makes it for a drawing."""
    hidden = SimpleNamespace(
        unique_id="3", dynprompt=SimpleNamespace(get_display_node_id=str), extra_pnginfo={"workflow": {"id": "a graph"}}
    )
    return pack.nodes.meter.Meter(hidden, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janus-shapes", help="a name or folder in transformers' layout")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as models:
        pack, _ = stand_in.load_pack(Path(models))
        asyncio.run(pack.comfy_entrypoint())
    server = stand_in.PromptServer.instance = Server()
    model, policy = ssd_core.load(given.model), ssd_core.SSD(given.budget)

    def draw(seed: int, meter: Any = None) -> tuple[float, float]:
        """Seconds of the token loop, and those of the meter among them."""
        inside = told = 0.0  # the engine counts neither

        def on_row(row: int, tokens: Tensor, memory: Memory, tokens_per_second: float | None) -> None:
            nonlocal inside, told
            begun = time.perf_counter()
            server.send_sync(PROGRESS, {"value": row + 1, "max": model.geometry.rows, "node": "3"})
            if meter:
                at_meter = time.perf_counter()
                meter.row(row + 1, tokens_per_second, memory)
                inside += time.perf_counter() - at_meter
            told += time.perf_counter() - begun

        drawn = ssd_core.generate(
            model, ["a red circle"], policy, images_per_prompt=given.images, seed=seed, on_row=on_row
        )
        return drawn.timing.decode + told, inside

    draw(0)
    without, with_meter = [], []
    for seed in range(given.repeats):
        if seed % 2:  # neither kind is always the first
            without.append(draw(seed)[0])
        with_meter.append(draw(seed, meter_of(pack, model.device)))
        if not seed % 2:
            without.append(draw(seed)[0])
    off, on = min(without), min(seconds for seconds, _ in with_meter)
    table = Table("repeats", "without s", "with s", "with / without", "inside the meter", "messages", "bytes each")
    table.add_row(
        str(given.repeats),
        f"{off:.3f}",
        f"{on:.3f}",
        f"{on / off:.3f}",
        f"{statistics.median(inside / seconds for seconds, inside in with_meter):.3%}",
        f"{server.messages / given.repeats:.1f}",
        f"{server.bytes / server.messages:.0f}",
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
