"""Janus-Pro's real geometry with random weights: write such a checkpoint, load it, draw, and print what it took.

    python -m bench.real_size --folder /tmp/janus-1b --rows 1

The folder holds 4 GB in transformers' layout and is kept for the next run. Pictures of random
weights mean nothing; that the files load, in what memory, and how fast a step is, does.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import ssd_core
from ssd_core.choice import STEPS

from .random_weights import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=1, help="rows of 24 tokens to draw before stopping")
    parser.add_argument("--method", choices=("full", "ssd"), default="ssd")
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--step", choices=STEPS, default="auto")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    if not (given.folder / "config.json").exists():
        write(given.folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    model = ssd_core.load(given.folder, dtype=given.dtype)
    loaded = time.perf_counter() - begun
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    policy = ssd_core.SSD(0.2) if given.method == "ssd" else ssd_core.Full()
    result = ssd_core.generate(
        model, ["a red circle"], policy, given.images, on_row=lambda row, *_: row + 1 >= given.rows, step=given.step
    )
    drawn = int((result.tokens >= 0).sum())
    figures = {
        "load_seconds": round(loaded, 1),
        "host_peak_before_MB": before // 1024,
        "host_peak_after_load_MB": most // 1024,
        "dtype": str(model.dtype),
        "step": result.step,
        "tokens_drawn": drawn,
        "seconds_per_token": round(result.timing.decode / drawn, 3),
        "picture": list(result.images.shape),
        "memory": {key: value for key, value in result.memory.as_dict().items() if isinstance(value, int)},
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
