"""Speed and memory of the token loop, beside transformers' own generate, in one run on the same files.

    python bench/speed.py --batches 1 8 --json bench/results/speed.json

Every rival draws the same prompts in turn, `--repeats` times round; the table gives medians. A batch is pictures of one
prompt; with `--mixed` its prompts differ, also in length, and slots fall into more and smaller groups. `moved` is what
one step must read (weights of the decoder and the image head, keys and values held) over the step's time; `of copy`
sets it against the bandwidth of a plain copy on the same machine in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

import ssd_core
from ssd_core.memory import full_bytes, module_bytes
from ssd_core.models.base import ImageModel
from ssd_core.models.checkpoint.files import find
from ssd_core.models.placement import choose_device

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


@dataclass
class Row:
    """One rival at one batch: medians over the repeats."""

    rival: str
    batch: int
    tokens_per_second: float
    step_milliseconds: float
    kv_bytes: int
    moved_gigabytes_per_second: float
    share_of_copy: float
    spread: float  # slowest over fastest repeat, in seconds


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


def ours(
    model: ImageModel, policy: ssd_core.Policy, prompts: list[str], compiled: bool = False
) -> tuple[Callable[[int], float], int]:
    """A run of our generate without its pictures, which the rival does not paint (seed -> seconds), and the bytes of
    its cache."""

    def run(seed: int) -> float:
        begun = time.perf_counter()
        result = ssd_core.generate(model, prompts, policy, seed=seed, compiled=compiled)
        return time.perf_counter() - begun - result.timing.pictures

    return run, ssd_core.generate(model, prompts, policy, compiled=compiled).memory.kv_bytes


def theirs(path: str, model: ImageModel, prompts: list[str]) -> tuple[Callable[[int], float], int]:
    """A run of transformers' generate as it comes (its static cache, no top-k), and the bytes of that cache."""
    rival = transformers.JanusForConditionalGeneration.from_pretrained(path).to(model.device, model.dtype).eval()
    ids = [model.encode(prompt) for prompt in prompts]
    width = max(map(len, ids))
    pad = rival.generation_config.pad_token_id
    padded = torch.tensor([[pad] * (width - len(own)) + own for own in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(own)) + [1] * len(own) for own in ids], device=model.device)

    def run(seed: int) -> float:
        torch.manual_seed(seed)
        begun = time.perf_counter()
        rival.generate(
            padded,
            attention_mask=mask,
            generation_mode="image",
            do_sample=True,
            top_k=0,
            guidance_scale=5.0,
            use_cache=True,
        )
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter() - begun

    run(0)
    held = width + model.geometry.tokens
    return run, full_bytes(model.geometry, [held - model.geometry.tokens + 1] * (2 * len(ids)), model.dtype)


def measure(
    path: str, batches: list[int], mixed: bool, repeats: int, device: str, dtype: str
) -> tuple[list[Row], float]:
    """All rivals at all batches, and the bandwidth of a copy in bytes a second."""
    model = ssd_core.load(path, device=device, dtype=dtype)
    folder = str(find(path))
    tokens = model.geometry.tokens
    copy = copy_bandwidth(model.device)
    read = module_bytes(model.decoder) + module_bytes(model.head)
    table = []
    for batch in batches:
        prompts = [PROMPTS[k % len(PROMPTS) if mixed else 0] for k in range(batch)]
        rivals = {
            "transformers generate": theirs(folder, model, prompts),
            "full": ours(model, ssd_core.Full(), prompts),
            "window 20 %": ours(model, ssd_core.Window(0.2), prompts),
            "SSD 20 %, refresh 1": ours(model, ssd_core.SSD(0.2, refresh=1), prompts),
            "SSD 20 %, refresh row": ours(model, ssd_core.SSD(0.2), prompts),
            "full, compiled": ours(model, ssd_core.Full(), prompts, compiled=True),
            "SSD 20 %, refresh row, compiled": ours(model, ssd_core.SSD(0.2), prompts, compiled=True),
        }
        seconds: dict[str, list[float]] = {rival: [] for rival in rivals}
        for repeat in range(repeats):
            for rival, (run, _) in rivals.items():
                seconds[rival].append(run(repeat))
        for rival, (_, kv_bytes) in rivals.items():
            median = statistics.median(seconds[rival])
            moved = (read + kv_bytes) * tokens / median
            table.append(
                Row(
                    rival,
                    batch,
                    batch * tokens / median,
                    1000 * median / tokens,
                    kv_bytes,
                    moved / 1e9,
                    moved / copy,
                    max(seconds[rival]) / min(seconds[rival]),
                )
            )
    return table, copy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janus-shapes", help="a name or folder in transformers' layout")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--mixed", action="store_true", help="a batch of different prompts, not pictures of one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="where to write machine, versions and rows")
    given = parser.parse_args()
    device = choose_device(given.device)
    rows, copy = measure(given.model, given.batches, given.mixed, given.repeats, given.device, given.dtype)
    against = {row.batch: row.tokens_per_second for row in rows if row.rival.startswith("transformers")}
    table = Table(
        "batch", "rival", "tokens/s", "x transformers", "ms/step", "cache MB", "moved GB/s", "of copy", "spread"
    )
    for row in rows:
        table.add_row(
            str(row.batch),
            row.rival,
            f"{row.tokens_per_second:.0f}",
            f"{row.tokens_per_second / against[row.batch]:.2f}",
            f"{row.step_milliseconds:.2f}",
            f"{row.kv_bytes / 1e6:.1f}",
            f"{row.moved_gigabytes_per_second:.1f}",
            f"{row.share_of_copy:.0%}",
            f"{row.spread:.2f}",
        )
    Console(width=130).print(table)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else str(device),
        "dtype": given.dtype,
        "model": given.model,
        "repeats": given.repeats,
        "mixed": given.mixed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy_gigabytes_per_second": copy / 1e9,
    }
    print(json.dumps(machine))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
