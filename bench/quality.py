"""What a compressed cache costs in pictures: ShapesEval of each method, with the full cache's prompts and seeds.

    python bench/quality.py --prompts 600 --out bench/results/quality

Every batch of prompts is drawn with the full cache and then with each method, so what is there can be compared at any
time; started again, it goes on with the batches that are missing. Prompts are combinations the embedded model never
saw. The interval is a paired bootstrap over prompts of the difference to the full cache.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import ssd_core
from ssd_core.evaluate.scenes import TASKS
from ssd_core.evaluate.see import require_scipy
from ssd_core.evaluate.shapes import held_out_prompts, score
from ssd_core.models.base import ImageModel

METHODS: dict[str, ssd_core.Policy] = {
    "full": ssd_core.Full(),
    "SSD 20 %": ssd_core.SSD(0.2),
    "SSD 20 %, refresh 1": ssd_core.SSD(0.2, refresh=1),
    "SSD 20 %, literal": ssd_core.SSD(0.2, literal=True),
    "Window 20 %": ssd_core.Window(0.2),
    "StreamingLLM 20 %": ssd_core.StreamingLLM(0.2),
}


def batches(model: ImageModel, prompts: list[str], size: int) -> list[list[str]]:
    """Batches of prompts that are equally long, which are drawn fastest, in an order that mixes lengths, so that the
    first ones stand for all."""
    of_length: dict[int, list[str]] = {}
    for prompt in prompts:
        of_length.setdefault(len(model.encode(prompt)), []).append(prompt)
    found = [alike[at : at + size] for alike in of_length.values() for at in range(0, len(alike), size)]
    random.Random(0).shuffle(found)
    return found


def draw_batch(model: ImageModel, prompts: list[str], seed: int, guidance: float) -> list[dict[str, Any]]:
    """Draw some prompts with every method; image k has seed + k. One record a method."""
    records: list[dict[str, Any]] = []
    reference: torch.Tensor | None = None
    for method, policy in METHODS.items():
        result = ssd_core.generate(model, prompts, policy, seed=seed, guidance=guidance)
        reference = result.tokens if reference is None else reference
        verdicts = score(list(result.images.numpy()), prompts).verdicts
        records.append(
            {
                "seed": seed,
                "method": method,
                "tasks": [verdict.task for verdict in verdicts],
                "right": [verdict.right for verdict in verdicts],
                "agreement": (result.tokens == reference).float().mean(1).tolist(),
                "kv_bytes": result.memory.kv_bytes,
                "bookkeeping_bytes": result.memory.bookkeeping_bytes,
                "kv_bytes_full": result.memory.kv_bytes_full,
                "seconds": result.timing.prefill + result.timing.decode,
            }
        )
    return records


def overall(tasks: NDArray[np.str_], right: NDArray[np.bool_]) -> float:
    """ShapesEval: the mean of the accuracies of the tasks."""
    return float(np.mean([right[tasks == task].mean() for task in TASKS if (tasks == task).any()]))


def interval(
    tasks: NDArray[np.str_], right: NDArray[np.bool_], full: NDArray[np.bool_], draws: int = 2000
) -> tuple[float, float]:
    """95 % of the difference to the full cache, by resampling prompts within each task."""
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(tasks == task) for task in TASKS if (tasks == task).any()]
    difference = right.astype(float) - full.astype(float)
    resampled = [np.mean([difference[rng.choice(own, len(own))].mean() for own in places]) for _ in range(draws)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a method."""

    def joined(method: str, key: str) -> NDArray[Any]:
        return np.concatenate([record[key] for record in records if record["method"] == method])

    def summed(method: str, key: str) -> float:
        return sum(record[key] for record in records if record["method"] == method)

    full = joined("full", "right")
    rows = []
    for method in METHODS:
        tasks, right = joined(method, "tasks"), joined(method, "right")
        held = summed(method, "kv_bytes") + summed(method, "bookkeeping_bytes")
        rows.append(
            {
                "method": method,
                "prompts": len(right),
                "shapes_eval": overall(tasks, right),
                "difference": overall(tasks, right) - overall(tasks, full),
                "interval": interval(tasks, right, full),
                "agreement": float(joined(method, "agreement").mean()),
                "kv_of_full": summed(method, "kv_bytes") / summed(method, "kv_bytes_full"),
                "held_of_full": held / summed(method, "kv_bytes_full"),
                "seconds": summed(method, "seconds"),
                "accuracy": {task: float(right[tasks == task].mean()) for task in TASKS if (tasks == task).any()},
            }
        )
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table."""
    table = Table("method", "ShapesEval", "difference", "95 %", "tokens as full", "cache", "+ scores", *TASKS)
    for row in rows:
        low, high = row["interval"]
        table.add_row(
            row["method"],
            f"{row['shapes_eval']:.3f}",
            f"{row['difference']:+.3f}",
            f"{low:+.3f} .. {high:+.3f}",
            f"{row['agreement']:.2f}",
            f"{row['kv_of_full']:.3f}",
            f"{row['held_of_full']:.3f}",
            *(f"{row['accuracy'].get(task, float('nan')):.2f}" for task in TASKS),
        )
    Console(width=170).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="janus-shapes")
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--batch", type=int, default=16, help="prompts drawn at once")
    parser.add_argument("--guidance", type=float, default=2.0, help="2 is the best for the embedded model as it is")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=Path("bench/results/quality"))
    given = parser.parse_args()
    require_scipy()
    model = ssd_core.load(given.model, device=given.device, dtype=given.dtype)
    prompts = held_out_prompts(given.prompts)
    lines = given.out.with_suffix(".jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": given.model,
        "weights": zlib.crc32(model.head.logits.weight.float().cpu().numpy().tobytes()),
        "dtype": str(model.dtype),
        "guidance": given.guidance,
        "prompts": given.prompts,
        "captions": zlib.crc32("\n".join(prompts).encode()),
        "methods": {method: repr(policy) for method, policy in METHODS.items()},
        "batch": given.batch,
    }
    records = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    if any(record["settings"] != settings for record in records):
        raise SystemExit(f"{lines} was drawn with other weights or settings; give another --out, or remove it.")
    done = {record["seed"] for record in records}
    seed = 0
    for some in batches(model, prompts, given.batch):
        if seed not in done:
            fresh = [{"settings": settings, **record} for record in draw_batch(model, some, seed, given.guidance)]
            with lines.open("a") as file:
                file.writelines(json.dumps(record) + "\n" for record in fresh)
            records += fresh
        seed += len(some)
        print(f"{seed} of {len(prompts)} prompts", flush=True)
    rows = summary(records)
    show(rows)
    machine = {
        **settings,
        "device": str(model.device),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    given.out.with_suffix(".json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
