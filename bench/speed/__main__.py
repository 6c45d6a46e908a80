"""Speed and memory of the token loop, beside transformers' own ways to draw, in one run on the same files.

    python -m bench.speed --batches 1 8 32 --readme

Every rival draws the same prompts in turn, `--repeats` times round; the table gives medians. A batch is pictures of one
prompt; with `--mixed` its prompts differ, also in length, and slots fall into more and smaller groups. `moved` is what
one step must read (weights of the decoder and the image head, keys and values held) over the step's time, both on the
mean over the picture; `of copy` sets it against the bandwidth of a plain copy on the same machine in the same run.
`bench.random_weights` writes folders of Janus-Pro's real sizes, and of larger grids, for --model.

    python -m bench.speed --batches 1 largest --memory-cap 8GiB --model /tmp/janus-1b

On a GPU one model at a time is on the device, and --memory-cap keeps each rival from taking more. `largest` is the
batch that each of ours plans to have room for there; the others begin with that of our full cache. Where it does not
fit after all, it shrinks until it does. On the processor the cap is only planned for.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

import ssd_core
from bench.arguments import count, memory, told
from bench.readme import put_between
from ssd_core.errors import UserError
from ssd_core.models.base import ImageModel
from ssd_core.models.checkpoint.files import find
from ssd_core.models.placement import choose_device
from ssd_core.models.small import WEIGHTS

from .measure import Seat, entries
from .plot import plot
from .rivals import BUDGET, FULL, Rival, rivals
from .table import LARGEST, Row, markdown, print_table

ROOT = Path(__file__).parents[2]
README, PLOT, RESULTS = ROOT / "README.md", ROOT / "docs" / "speed.svg", ROOT / "bench" / "results" / "speed.json"


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    with told():
        device = choose_device(given.device)
        free = limit(device, given)
        model = ssd_core.load(given.model, device=device, dtype=given.dtype, weights=given.weights)
        copy = copy_bandwidth(device)
        budget = BUDGET if given.budget is None else given.budget
        known = rivals(str(find(given.model)), model, budget)
        names, seat, rows = chosen(known, given.rivals), Seat(device, known[FULL].model), []
        check(given, names)
        for batch in given.batches:
            competing = entries(known, names, batch, given.mixed, seat, free)
            for repeat in range(given.repeats):
                for entry in competing:
                    entry.run(repeat, seat)
            rows += [entry.row(model.geometry, copy) for entry in competing]
        machine = machine_of(model, given, budget, copy)
        print_table(rows)
        print(json.dumps(machine))
        picture = plot(rows, model.geometry.columns) if given.readme else ""
        if given.json or given.readme:
            save(given.json or RESULTS, machine, rows)
        if given.readme:
            put_between(README, "speed", markdown(rows))
            PLOT.write_text(picture, encoding="utf-8")


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="janus-shapes", help="a name or folder in transformers' layout")
    parser.add_argument("--batches", type=batch_of, nargs="+", default=[1, 8], help="numbers of pictures, or 'largest'")
    parser.add_argument("--budget", type=float, help=f"of the compressed caches, {BUDGET:g} unless given")
    parser.add_argument("--rivals", nargs="+", default=[""], help="names, or parts of names; all unless given")
    parser.add_argument("--mixed", action="store_true", help="a batch of different prompts, not pictures of one")
    parser.add_argument("--repeats", type=count, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="what our decoder's matrices are kept in")
    cap = "let a GPU be no larger than this; on the processor, what the largest batches are planned for"
    parser.add_argument("--memory-cap", type=memory, metavar="8GiB", help=cap)
    parser.add_argument("--json", type=Path, help="where to write machine, versions and rows")
    parser.add_argument("--readme", action="store_true", help="put table and plot into the README, rows into results")
    return parser.parse_args(arguments)


def batch_of(text: str) -> int | str:
    return text if text == LARGEST else count(text)


def limit(device: torch.device, given: argparse.Namespace) -> int | None:
    """How many bytes there are to draw in, None if that is not known; makes a GPU behave like a smaller card.

    Raises UserError where a cap has no effect, or cannot be kept.
    """
    most: int | None = given.memory_cap
    if device.type != "cuda":
        if most is not None and LARGEST not in given.batches:
            raise UserError("On the processor --memory-cap is for --batches largest; leave it out.")
        return most
    whole = torch.cuda.get_device_properties(device).total_memory
    if most is None:
        return torch.cuda.mem_get_info(device)[0]
    if most > whole:
        raise UserError(f"The GPU has {whole / 2**30:.1f} GiB; give a smaller --memory-cap.")
    torch.cuda.set_per_process_memory_fraction(most / whole, device)
    return most


def chosen(known: dict[str, Rival], given: Sequence[str]) -> list[str]:
    """The names that are given, and those with a part that is given and no whole name."""
    if strangers := [own for own in given if not any(own in name for name in known)]:
        raise UserError(f"No rival is called {' or '.join(strangers)}; there are {'; '.join(known)}.")
    return [name for name in known if any(own == name or (own not in known and own in name) for own in given)]


def check(given: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise UserError, before hours are spent, for what would have no effect, or could not be written at the end."""
    if given.budget is not None and not any(" %" in name for name in names):
        raise UserError(f"None of {'; '.join(names)} has a budget; leave --budget out.")
    if given.readme and all(batch == LARGEST for batch in given.batches):
        raise UserError("The README's plot is of batches that are the same for all rivals; give --batches a number.")
    if given.json:
        try:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.open("a").close()
        except OSError as error:
            raise UserError(f"{given.json} cannot be written ({error.strerror}); let --json name another.") from error


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


def machine_of(model: ImageModel, given: argparse.Namespace, budget: float, copy: float) -> dict[str, Any]:
    """All that the figures depend on."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if model.device.type == "cuda" else str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "weights": given.weights,
        "model": given.model,
        "repeats": given.repeats,
        "mixed": given.mixed,
        "budget": budget,
        "memory_cap": given.memory_cap,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "copy_gigabytes_per_second": copy / 1e9,
    }


def processor() -> str:
    """Its name and, for names may be vague, its family and model, where Linux tells them."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    told = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", about, re.MULTILINE))
    if not told:
        return platform.processor() or platform.machine()
    return ", ".join(" ".join(part) if part[0] != "model name" else part[1] for part in told.items())


def save(path: Path, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    path.write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
