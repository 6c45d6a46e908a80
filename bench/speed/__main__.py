"""Speed and memory of the token loop, beside transformers' own ways to draw, in one run on the same files.

    python -m bench.speed --batches 1 8 32 --readme

Every rival draws the same prompts in turn, `--repeats` times round; the table gives medians. A batch is pictures of one
prompt; with `--mixed` its prompts differ, also in length, and slots fall into more and smaller groups. `moved` is what
one step must read (weights of the decoder and the image head, keys and values held) over the step's time; `of copy`
sets it against the bandwidth of a plain copy on the same machine in the same run. `bench.random_weights` writes
folders of Janus-Pro's real sizes, and of larger grids, for --model.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import ssd_core
from bench.readme import put_between
from ssd_core.errors import OutOfMemoryError, UserError
from ssd_core.models.base import ImageModel
from ssd_core.models.checkpoint.files import find
from ssd_core.models.placement import choose_device

from .plot import plot
from .rivals import Draw, Run, rivals
from .table import Row, markdown, print_table, row_of

ROOT = Path(__file__).parents[2]
README, PLOT, RESULTS = ROOT / "README.md", ROOT / "docs" / "speed.svg", ROOT / "bench" / "results" / "speed.json"
PROMPTS = (
    "a red circle",
    "three blue squares",
    "a ring and a cross",
    "a green diamond and a purple triangle",
    "a square left of a circle",
    "four yellow crosses on a black background",
    "a triangle on a white background",
    "an orange ring above a blue cross",
)


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    try:
        device = choose_device(given.device)
        cap(device, given.memory_cap)
        model = ssd_core.load(given.model, device=device, dtype=given.dtype)
        copy = copy_bandwidth(device)
        rows = [row for batch in given.batches for row in measure(model, batch, given, copy)]
        machine = machine_of(model, given, copy)
        print_table(rows)
        print(json.dumps(machine))
        if given.json or given.readme:
            save(given.json or RESULTS, machine, rows)
        if given.readme:
            put_between(README, "speed", markdown(rows))
            PLOT.write_text(plot(rows, model.geometry.columns), encoding="utf-8")
    except UserError as error:
        sys.exit(str(error))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="janus-shapes", help="a name or folder in transformers' layout")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--budget", type=float, default=0.2, help="of the compressed caches")
    parser.add_argument("--rivals", nargs="+", default=[""], help="parts of names; all unless given")
    parser.add_argument("--mixed", action="store_true", help="a batch of different prompts, not pictures of one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--memory-cap", type=size, metavar="8GB", help="let a GPU be no larger than this")
    parser.add_argument("--json", type=Path, help="where to write machine, versions and rows")
    parser.add_argument("--readme", action="store_true", help="put table and plot into the README, rows into results")
    return parser.parse_args(arguments)


def size(text: str) -> int:
    """Bytes of a size as it stands on a card."""
    if not text.upper().endswith("GB"):
        raise argparse.ArgumentTypeError(f"a size such as 8GB, not {text}")
    return int(float(text[:-2]) * 2**30)


def cap(device: torch.device, most: int | None) -> None:
    """Make a GPU behave like a smaller card; raises UserError where that cannot be done."""
    if most is None:
        return
    if device.type != "cuda":
        raise UserError("--memory-cap is for GPUs; leave it out.")
    whole = torch.cuda.get_device_properties(device).total_memory
    if most > whole:
        raise UserError(f"The GPU has {whole / 2**30:.1f} GiB; give a smaller --memory-cap.")
    torch.cuda.set_per_process_memory_fraction(most / whole, device)


def measure(model: ImageModel, batch: int, given: argparse.Namespace, copy: float) -> list[Row]:
    """All rivals at a batch."""
    prompts = [PROMPTS[k % len(PROMPTS) if given.mixed else 0] for k in range(batch)]
    known = rivals(str(find(given.model)), model, prompts, given.budget)
    chosen = {name: make for name, make in known.items() if any(part in name for part in given.rivals)}
    if not chosen:
        raise UserError(f"No rival is called {' or '.join(given.rivals)}; there are {', '.join(known)}.")
    drawers: dict[str, Draw | None] = {}
    runs: dict[str, list[Run]] = {name: [] for name in chosen}
    peaks: dict[str, int | None] = dict.fromkeys(chosen)
    for name, make in chosen.items():
        drawers[name] = tried(make)
    for repeat in range(given.repeats):
        for name, draw in drawers.items():
            if draw is None:
                continue
            if model.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(model.device)
            run = tried(partial(draw, repeat))
            if run is None:
                drawers[name] = None
                runs[name].clear()
                continue
            runs[name].append(run)
            if model.device.type == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated(model.device)
            print(f"batch {batch}, round {repeat + 1}: {name} {run.seconds:.2f} s", flush=True)
    geometry = model.geometry
    return [
        row_of(name, batch, own, geometry.tokens, geometry.columns, copy, peaks[name]) for name, own in runs.items()
    ]


def tried(work: Any) -> Any:
    """What the work returns, or None where memory runs out, which is a result."""
    try:
        return work()
    except (OutOfMemoryError, torch.OutOfMemoryError) as error:
        print(f"Out of memory: {error}")
        return None


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second of a plain copy, read and written bytes both counted."""
    source = torch.empty(64 * 2**20, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * source.nbytes / best


def machine_of(model: ImageModel, given: argparse.Namespace, copy: float) -> dict[str, Any]:
    """All that the figures depend on."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "model": given.model,
        "repeats": given.repeats,
        "mixed": given.mixed,
        "budget": given.budget,
        "memory_cap": given.memory_cap,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy_gigabytes_per_second": copy / 1e9,
    }


def save(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
