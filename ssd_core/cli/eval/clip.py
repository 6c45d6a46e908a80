"""ssd-janus eval clip"""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ...errors import UserError
from ...evaluate.benchmarks import pictures_of
from ...evaluate.clip import DEFAULT, Clip, ClipScore, score
from ...models.placement import choose_device
from ..console import ERR, OUT, table
from ..drawing import progress
from ..options import DeviceOption, ReportOption, prepare_file


def clip(
    folder: Annotated[
        Path,
        typer.Option(metavar="DIR", help="What geneval or dpg drew, or PNG files with their prompts inside."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--clip", metavar="MODEL", help=f"A CLIP model's folder, or its hub name; {DEFAULT} if not given."
        ),
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Fetch --clip from the hub if it is not here.")] = False,
    device: DeviceOption = "auto",
    report_to: ReportOption = None,
) -> None:
    """CLIP score: how near pictures are to their prompts, the mean cosine times 100. Nothing is fetched unasked."""
    if download and model is None:
        raise UserError(f"--download fetches what --clip names; say --clip {DEFAULT} to have that one.")
    if download and model and Path(model).exists():
        raise UserError(f"{model} is here, so --download has no effect; leave it out.")
    if report_to:
        prepare_file(report_to)
    (sheets, total), place, name = pictures_of(folder), choose_device(device), model or DEFAULT
    with ERR.status(Text(f"Reading {name}")):
        read = Clip(name, place, download)
    with progress("files") as bar:
        task = bar.add_task("CLIP score", total=len(sheets))
        result = score(read, sheets, lambda done: bar.update(task, completed=done))
    show(result)
    if len(result.likenesses) < total:
        ERR.print(f"Only {len(result.likenesses)} of {total} pictures are drawn so far.", style="yellow")
    cut = sum(likeness.cut for likeness in result.likenesses)
    if cut:
        ERR.print(f"CLIP read only the first {read.limit} tokens of the prompts of {cut} pictures.", style="yellow")
    if report_to:
        about = {"folder": str(folder), "clip": name, "transformers": version("transformers")}
        figures = about | {"overall": result.overall, "tasks": result.tasks} | asdict(result)
        report_to.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def show(result: ClipScore) -> None:
    """The mean of each task, and of all."""
    figures = table("task", "pictures", "CLIP score")
    for task, likeness in result.tasks.items():
        figures.add_row(task, str(sum(one.task == task for one in result.likenesses)), f"{likeness:.2f}")
    figures.add_row("overall", str(len(result.likenesses)), f"{result.overall:.2f}")
    OUT.print(figures)
