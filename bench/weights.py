"""What small weights cost in quality, and what they save: the next token's distribution against the unrounded model's.

    python -m bench.weights

Each precision that the device can do is fed the same right pictures of prompts never trained on, token by token, with
the full cache and without guidance. Writes bench/results/weights.json and prints a table.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import ssd_core
from bench.quality.batches import Batch, batches
from ssd_core.evaluate.fidelity import divergence, forced_logits
from ssd_core.memory import module_bytes, plan
from ssd_core.models.janus import Janus
from ssd_core.models.small import possible_weights
from ssd_core.prompts import prompt_rows
from ssd_core.report import versions
from ssd_core.sampling import Sampling
from ssd_core.words import human

OUT = Path(__file__).parent / "results" / "weights.json"
ALONE = Sampling(guidance=1.0)


def logits(model: Janus, some: list[Batch]) -> tuple[list[torch.Tensor], float]:
    """Of each token of all pictures, float32 [prompts, codebook], and the processor's seconds for a step of a batch."""
    begun, each = time.process_time(), []
    for batch in some:
        rows = prompt_rows(model, batch.prompts, 1, None, ALONE)
        each.append(list(forced_logits(model, ssd_core.Full(), rows, batch.tokens)))
    steps = len(some) * model.geometry.tokens
    return [torch.cat(rows) for rows in zip(*each, strict=True)], (time.process_time() - begun) / steps


def decoder_bytes(model: Janus) -> int:
    """Bytes of the decoder, but for its table of positions."""
    return module_bytes(model.decoder) - model.decoder.rope.table.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m bench.weights", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="janus-shapes", help="one with the embedded model's picture codes")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16, help="prompts read at once")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    plain = ssd_core.load(given.model, given.device, given.dtype)
    some = batches(plain, given.prompts, given.batch)
    reference, seconds = logits(plain, some)
    rows: list[dict[str, Any]] = []
    print("| weights | decoder | all weights | KL a token | largest of a picture | ms of the processor a step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for weights in possible_weights(plain.device, plain.dtype):
        model, kl = plain, torch.zeros(1)
        if weights != "auto":
            model = ssd_core.load(given.model, given.device, given.dtype, weights=weights)
            found, seconds = logits(model, some)
            kl = divergence(reference, found)
        row: dict[str, Any] = {
            "weights": weights,
            "decoder_bytes": decoder_bytes(model),
            "weights_bytes": plan(model).weights_bytes,
            "kl": float(kl.mean()),
            "largest_kl": float(kl.max()),
            "step_seconds": seconds,
        }
        rows.append(row)
        sizes = f"{human(row['decoder_bytes'])} | {human(row['weights_bytes'])}"
        print(f"| {weights} | {sizes} | {row['kl']:.2g} | {row['largest_kl']:.2g} | {seconds * 1000:.1f} |", flush=True)
    settings = {
        "model": plain.name,
        "dtype": str(plain.dtype).removeprefix("torch."),
        "prompts": sum(len(batch.prompts) for batch in some),
        "batch": given.batch,
        "threads": torch.get_num_threads(),
    }
    given.out.write_text(
        json.dumps({"settings": settings, "versions": versions(plain.device), "rows": rows}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
