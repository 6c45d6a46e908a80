"""ssd-janus eval geneval, ssd-janus eval dpg"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ...cache.storage import check_kv_dtype
from ...errors import UserError
from ...evaluate.folders import Benchmark, claim, draw_batch, stated
from ...memory import plan
from ...models.base import ImageModel
from ...policies import METHODS, Policy
from ...sampling import Sampling
from ..console import ERR
from ..drawing import progress, stop_on_interrupt
from ..fields import with_options
from ..options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    KVDtypeOption,
    MethodOption,
    ModelOption,
    NegativeOption,
    OutOption,
    SeedOption,
    WeightsOption,
    make_folder,
    policies_of,
    read_model,
)

INTERRUPTED = 130  # the exit code that shells give to what Ctrl-C ended


def command(kind: type[Benchmark]) -> Callable[..., None]:
    """The command that draws a benchmark's folder."""

    @with_options(options=METHODS, sampling={"": Sampling})
    def draw(
        options: dict[str, Any],
        sampling: dict[str, Any],
        prompts: Annotated[
            Path,
            typer.Option(
                metavar="FILE",
                help="The benchmark's own: GenEval's evaluation_metadata.jsonl, DPG-Bench's folder of .txt files.",
                show_default=False,
            ),
        ],
        out: OutOption,
        model: ModelOption = EMBEDDED,
        method: MethodOption = "full",
        images: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 4,
        batch: Annotated[int, typer.Option(help="How many pictures, of any prompts, are drawn at once.")] = 16,
        seed: SeedOption = 0,
        negative: NegativeOption = None,
        device: DeviceOption = "auto",
        dtype: DtypeOption = "auto",
        weights: WeightsOption = "auto",
        kv_dtype: KVDtypeOption = "auto",
    ) -> None:
        policy, chosen = policies_of([method], options)[method], Sampling(**sampling)
        check_kv_dtype(kv_dtype)
        if batch < 1:
            raise UserError(f"--batch is 1 at least, not {batch}.")
        benchmark = kind(prompts, out, images)
        make_folder(out)
        stated(out)  # refuses what is not a folder of ours before a model is read
        loaded, _ = read_model(model, device, dtype, weights)
        policy = policy.fit(loaded)
        drawing = {"seed": seed, "negative": negative, "kv_dtype": kv_dtype} | asdict(chosen)
        longest = max(len(loaded.encode(prompt)) for prompt in benchmark.prompts)
        plan(loaded, policy, prompt=longest, kv_dtype=kv_dtype)  # refuses what cannot be drawn before hours of what can
        claim(loaded, benchmark, policy, drawing)
        draw_missing(loaded, benchmark, policy, drawing, batch)
        if left := len(benchmark.missing()):
            there = f"Stopped: {benchmark.total - left} of {benchmark.total} pictures are in {out}"
            ERR.print(f"{there}; the same command goes on.", style="yellow")
            raise typer.Exit(INTERRUPTED)
        typer.echo(f"{benchmark.total} pictures of {len(benchmark.prompts)} prompts are in {out}.")
        typer.echo(f"{kind.title}'s own scorer, in a copy of {kind.home}:")
        for line in benchmark.scorer(loaded.picture_size[1]):
            typer.echo(f"  {line}")

    return draw


def draw_missing(model: ImageModel, benchmark: Benchmark, policy: Policy, drawing: dict[str, Any], batch: int) -> None:
    """Draw what is not in the folder yet, with a bar of pictures. Ctrl-C stops after the row and leaves that batch."""
    with progress("pictures") as bar, stop_on_interrupt() as stop:
        done = benchmark.total - len(benchmark.missing())
        task = bar.add_task(benchmark.title, total=benchmark.total, completed=done)
        for numbers in benchmark.batches(batch):

            def on_row(row: int, *_: object, done: int = done, size: int = len(numbers)) -> bool:
                bar.update(task, completed=done + size * (row + 1) / model.geometry.rows)
                return stop.is_set()

            draw_batch(model, benchmark, numbers, policy, drawing, on_row)
            if stop.is_set():
                break
            done += len(numbers)
