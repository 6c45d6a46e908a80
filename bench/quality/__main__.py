"""What a compressed cache costs in pictures: every method at several budgets, against the full cache.

    python -m bench.quality --minutes 60 --readme

Pictures of combinations that the embedded model never saw are drawn with the full cache and with each method, with the
same seeds, and judged by ShapesEval. On the first prompts the method is also fed the full cache's tokens, and right
pictures, and its distributions are compared with the full cache's. A cell is one of these measurements of a method at
a budget on a batch of prompts. Every cell is kept as it is done, and all ways of a batch come before the next batch, so
what is there can be compared at any time; started again, it goes on with the cells that are missing. The cells of a
policy that has changed are measured again.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench.arguments import count, told
from bench.readme import put_between
from ssd_core.errors import UserError
from ssd_core.evaluate.see import require_scipy
from ssd_core.heads.headmap import default_map
from ssd_core.models.base import ImageModel
from ssd_core.models.checkpoint.files import Checkpoint
from ssd_core.policies import METHODS

from .batches import Batch, batches
from .jobs import Job, cells_of, load, measure, measure_beside
from .ledger import Ledger, key_of
from .plot import plot
from .render import everything, markdown, print_table
from .summary import Row, summary
from .ways import BUDGETS, Way, variant_of, ways

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "quality"
README = ROOT / "README.md"
METHOD_HELP = f"a method, in quotes with its options if it has any; {', '.join(METHODS)} unless given"
PLOT = ROOT / "docs" / "quality.svg"


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    with told():
        ledger = draw(given) if given.minutes else Ledger(given.out.with_suffix(".jsonl"))
        show(ledger, given)


def show(ledger: Ledger, given: argparse.Namespace) -> None:
    """Bring what was measured into all its forms."""
    if not ledger.records:
        raise UserError(f"There are no results in {ledger.path} yet.")
    rows = summary(ledger.records)
    print_table(rows)
    given.out.with_suffix(".json").write_text(as_json(ledger, rows), encoding="utf-8")
    if given.table:
        put_between(given.table, "quality", everything(rows))
    if given.readme:
        put_between(README, "quality", markdown(rows))
        PLOT.write_text(plot(rows), encoding="utf-8")


def as_json(ledger: Ledger, rows: Sequence[Row]) -> str:
    return json.dumps({"settings": ledger.settings, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", type=method, default=list(METHODS), metavar="METHOD", help=METHOD_HELP)
    parser.add_argument("--budgets", nargs="+", type=share, default=BUDGETS, metavar="SHARE")
    parser.add_argument("--prompts", type=count, default=600)
    parser.add_argument("--forced", type=int, default=32, help="prompts of which distributions are compared, too")
    parser.add_argument("--batch", type=count, default=16, help="prompts drawn at once")
    parser.add_argument(
        "--workers", type=count, default=1, help="processes that measure side by side and share the cores"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; 0 only shows what is there")
    parser.add_argument("--guidance", type=float, default=2.0, help="2 is the best for the embedded model")
    parser.add_argument("--model", default="janus-shapes", help="one with the embedded model's picture codes")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results go to OUT.jsonl and OUT.json")
    parser.add_argument("--readme", action="store_true", help="put the tables and the plot into the README")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="put all that was measured into this document")
    return parser.parse_args(arguments)


def method(text: str) -> str:
    try:
        variant_of(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def share(text: str) -> float:
    if not 0 < float(text) < 1:
        raise argparse.ArgumentTypeError(f"a budget is a share above 0 and below 1, not {text}")
    return float(text)


def draw(given: argparse.Namespace) -> Ledger:
    """Measure the cells that are asked for and missing, as long as there is time."""
    require_scipy()
    until = time.monotonic() + 60 * given.minutes
    model = load(given)
    settings = settings_of(model, given)
    ledger = Ledger(given.out.with_suffix(".jsonl"), settings)
    some = batches(model, given.prompts, given.batch)
    drop_superseded(ledger, list(ways(given.methods, given.budgets)), some)
    jobs = list(every_job(given, some, ledger))
    missing = sum(len(job.cells) for job in jobs)
    if given.workers == 1:
        records = measure(jobs, cells_of(model, given, settings))
    else:
        records = measure_beside(jobs, given.workers, given, settings)
    try:
        for number, record in enumerate(records, 1):
            ledger.add(record)
            print(f"{number} of {missing}: {record['method']} at {record['budget']:g} {record['cell']}", flush=True)
            if time.monotonic() > until and number < missing:
                print(f"The {given.minutes:g} minutes are over; started again, it goes on.")
                break
    except KeyboardInterrupt:
        print("Stopped; started again, it goes on.")
    return ledger


def settings_of(model: ImageModel, given: argparse.Namespace) -> dict[str, Any]:
    """All that decides what is drawn, but for methods and prompts."""
    weights = 0
    for file in Checkpoint(given.model).files:
        weights = zlib.crc32(file.read_bytes(), weights)
    known = default_map(model.name, model.geometry)
    return {
        "model": model.name,
        "weights": weights,
        "head_map": zlib.crc32(
            b"".join(part.numpy().tobytes() for part in (known.share, known.beyond, known.peak) if part is not None)
        ),
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "guidance": given.guidance,
        "batch": given.batch,
    }


def drop_superseded(ledger: Ledger, chosen: Sequence[Way], some: Sequence[Batch]) -> None:
    """Forget what was measured of policies and prompts that have changed since."""
    policies = {(way.method, way.budget): way.about for way in chosen}
    captions = {batch.seed: batch.captions for batch in some}

    def superseded(record: dict[str, Any]) -> bool:
        policy = policies.get((record["method"], record["budget"]), record["policy"])
        return policy != record["policy"] or captions.get(record["seed"], record["captions"]) != record["captions"]

    if dropped := ledger.drop(superseded):
        print(f"{dropped} cells are of policies or prompts that have changed, and are measured again.")


def every_job(given: argparse.Namespace, some: Sequence[Batch], ledger: Ledger) -> Iterator[Job]:
    """What is missing of what was asked for, in order."""
    for batch in some:
        for way in ways(given.methods, given.budgets):
            job = Job(way, batch, ("drawn", "forced") if batch.seed < given.forced else ("drawn",))
            missing = [cell for cell in job.cells if key_of(job.about(cell)) not in ledger.done]
            if missing:
                yield replace(job, cells=missing)


if __name__ == "__main__":
    main()
