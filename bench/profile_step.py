"""Where a step's time goes: torch's profiler over one row of a drawing.

    python -m bench.profile_step --method ssd --batch 32
    python -m bench.profile_step --model /tmp/janus-1b --method full --step graph --trace step.json

Prints how long a step took, and the operations that take most of it, with their sizes; on a GPU by the time of their
kernels. The kernels for the processor are no operations of torch's: what they take is the time that is left. --trace
writes the whole row for chrome://tracing or Perfetto.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from torch.profiler import ProfilerActivity, profile

import ssd_core
from bench.arguments import count, told
from ssd_core.choice import STEPS
from ssd_core.errors import UserError
from ssd_core.models.small import WEIGHTS
from ssd_core.policies import METHODS, Full, Policy

BUDGET = 0.2  # of every method but full
WARM = 2  # rows before the one that is looked at, in which a step is compiled or captured


def main(arguments: Sequence[str] | None = None) -> None:
    given = options(arguments)
    with told():
        model = ssd_core.load(given.model, given.device, given.dtype, weights=given.weights)
        if given.row >= model.geometry.rows:
            raise UserError(f"The grid has {model.geometry.rows} rows; let --row be less.")
        device = model.device.type
        profiler, seconds = observed(model, policy_of(given.method, given.budget), given, device)
    averages = profiler.key_averages(group_by_input_shape=True)
    by = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    each = model.geometry.columns
    seen = sum(getattr(event, by) for event in averages) / each
    print(f"{seconds / each * 1e6:9.1f} us a step, {seen:.1f} us of it in what the profiler sees")
    for event in sorted(averages, key=lambda event: -getattr(event, by))[: given.lines]:
        microseconds = getattr(event, by) / each
        print(f"{microseconds:9.1f} us a step  {event.count / each:6.1f} x  {event.key[:60]:60}  {event.input_shapes}")
    if given.trace:
        profiler.export_chrome_trace(str(given.trace))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.profile_step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="janus-shapes")
    parser.add_argument("--method", choices=METHODS, default="ssd")
    parser.add_argument("--budget", type=float, help=f"of what full keeps, {BUDGET:g} unless given")
    parser.add_argument("--batch", type=count, default=1)
    parser.add_argument("--step", choices=STEPS, default="auto")
    parser.add_argument("--row", type=int, default=14, help="the row of the grid that is looked at")
    parser.add_argument("--lines", type=count, default=30)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--weights", choices=WEIGHTS, default="auto", help="what the decoder's matrices are kept in")
    parser.add_argument("--trace", type=Path, metavar="FILE.json")
    given = parser.parse_args(arguments)
    if given.row < WARM:
        parser.error(f"--row is {WARM} or more: the rows before it warm up")
    if given.method == "full" and given.budget is not None:
        parser.error("full keeps everything; leave --budget out")
    return given


def policy_of(method: str, budget: float | None) -> Policy:
    cls: Any = METHODS[method]
    return Full() if cls is Full else cls(budget=BUDGET if budget is None else budget)


def observed(model: Any, policy: Policy, given: argparse.Namespace, device: str) -> tuple[profile, float]:
    """A profiler that has seen one row of the drawing, and ended it; and how many seconds the row took."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    profiler, began, seconds = profile(activities=activities, record_shapes=True), 0.0, 0.0

    def on_row(row: int, *_: object) -> bool:
        nonlocal began, seconds
        if row == given.row - 1:
            profiler.start()
            began = perf_counter()
        if row == given.row:
            seconds = perf_counter() - began  # the loop waits for the device before it tells of a row
            profiler.stop()
        return row >= given.row

    ssd_core.generate(model, ["a red circle"], policy, given.batch, step=given.step, on_row=on_row)
    return profiler, seconds


if __name__ == "__main__":
    main()
