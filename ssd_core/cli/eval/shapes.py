"""ssd-janus eval shapes"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from ...cache.storage import check_kv_dtype
from ...errors import UserError
from ...evaluate.see import require_scipy
from ...evaluate.shapes import ShapesScore, held_out_prompts, score, score_folder
from ...loop import generate
from ...models.base import ImageModel
from ...policies import METHODS, Policy
from ...report import settings_of, versions
from ...sampling import Sampling
from ..console import OUT, table
from ..drawing import progress
from ..fields import with_options
from ..options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    KVDtypeOption,
    MethodOption,
    ModelOption,
    ReportOption,
    SeedOption,
    WeightsOption,
    policies_of,
    prepare_file,
    read_model,
    refuse_given,
)


@with_options(options=METHODS, sampling={"": Sampling})
def shapes(
    context: typer.Context,
    options: dict[str, Any],
    sampling: dict[str, Any],
    folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Score its PNG files instead of drawing.", show_default=False)
    ] = None,
    model: ModelOption = EMBEDDED,
    method: MethodOption = "full",
    prompts: Annotated[int, typer.Option(help="How many unseen prompts to draw, one picture each.")] = 60,
    batch: Annotated[int, typer.Option(help="How many pictures are drawn at once.")] = 16,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    weights: WeightsOption = "auto",
    kv_dtype: KVDtypeOption = "auto",
    report_to: ReportOption = None,
) -> None:
    """ShapesEval: does each picture show what its prompt asks for?"""
    require_scipy()
    about: dict[str, Any]
    if report_to:
        prepare_file(report_to)
    if folder:
        refuse_given(context, {"folder", "report_to"}, "--folder draws nothing")
        result, about = score_folder(folder), {"folder": str(folder)}
    else:
        if prompts < 1 or batch < 1:
            raise UserError("--prompts and --batch are 1 at least.")
        policy = policies_of([method], options)[method]
        check_kv_dtype(kv_dtype)
        captions = held_out_prompts(prompts)
        loaded, _ = read_model(model, device, dtype, weights)
        pictures = draw_all(loaded, captions, policy, batch, seed, sampling | {"kv_dtype": kv_dtype})
        result = score([picture.numpy() for picture in pictures], captions)
        about = {
            "model": loaded.name,
            "method": method,
            "settings": settings_of(
                loaded,
                policy.fit(loaded),
                {"seed": seed, "batch": batch, "kv_dtype": kv_dtype, **asdict(Sampling(**sampling))},
            ),
            "versions": versions(loaded.device),
        }
    show(result)
    if report_to:
        figures = about | {"accuracy": result.accuracy, "overall": result.overall} | asdict(result)
        report_to.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def draw_all(
    model: ImageModel, captions: Sequence[str], policy: Policy, batch: int, seed: int, drawing: dict[str, Any]
) -> list[Tensor]:
    """A picture of each caption, `batch` at once: float32 [height, width, 3] each.

    drawing: what else `generate` takes."""
    starts = range(0, len(captions), batch)
    pictures: list[Tensor] = []
    with progress() as bar:
        task = bar.add_task("ShapesEval", total=len(starts) * model.geometry.rows)

        def on_row(*_: object) -> None:
            bar.advance(task)

        for start in starts:
            some = captions[start : start + batch]
            pictures += generate(model, some, policy, seed=seed + start, on_row=on_row, **drawing).images.unbind()
    return pictures


def show(result: ShapesScore) -> None:
    """The shares of right pictures."""
    figures = table("task", "pictures", "right")
    for task, accuracy in result.accuracy.items():
        count = sum(verdict.task == task for verdict in result.verdicts)
        figures.add_row(task, str(count), f"{accuracy:.3f}")
    figures.add_row("overall", str(len(result.verdicts)), f"{result.overall:.3f}")
    OUT.print(figures)
