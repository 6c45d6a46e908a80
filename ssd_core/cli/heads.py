"""ssd-janus heads"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..errors import UserError
from ..heads import HeadMap, measure
from ..heads import draw as draw_map
from ..heads.colours import heat
from ..heads.draw_columns import draw_columns
from ..heads.draw_reach import draw_reach
from ..heads.draw_regions import draw_regions
from ..heads.headmap import check_tau
from ..heads.prompts import default_prompts
from ..heads.regions import RegionMeter
from ..policies import SSD
from ..report import versions
from .console import OUT
from .drawing import progress
from .options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    ModelOption,
    ReportOption,
    SeedOption,
    WeightsOption,
    prepare_file,
    read_model,
    refuse_given,
)

app = typer.Typer(add_completion=False)


@app.command()
def heads(
    context: typer.Context,
    model: ModelOption = EMBEDDED,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Prompts to measure on, one a line.", show_default=False)
    ] = None,
    images: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    seed: SeedOption = 0,
    neighbourhood: Annotated[
        int | None,
        typer.Option(
            help="Image tokens that are near, the newest included; a row and two unless given.", show_default=False
        ),
    ] = None,
    tau: Annotated[float, typer.Option(help="The share above which a head is semantic.")] = SSD.tau,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the map, for --head-map.", show_default=False)
    ] = None,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the map as a picture.", show_default=False)
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Draw how much attention goes to the prompt, to what is near and to the margins, step by step.",
            show_default=False,
        ),
    ] = None,
    columns: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the columns that far attention falls on.", show_default=False),
    ] = None,
    reach: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw how many tokens hold most of a head's attention.", show_default=False
        ),
    ] = None,
    report: ReportOption = None,
    show: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show a kept map instead of measuring one.", show_default=False)
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    weights: WeightsOption = "auto",
) -> None:
    """Measure, on pictures drawn with the full cache, how far each head looks, and show it."""
    check_tau(tau)
    pictures = [file for file in (draw, regions, columns, reach) if file]
    for file in filter(None, (save, report, *pictures)):
        prepare_file(file)
    for file in pictures:
        if file.suffix.lower() != ".png":
            raise UserError(f"{file} is not known to be a picture; give it a name that ends in .png.")
    if show:
        refuse_given(context, {"tau", "draw", "show"}, "--show measures nothing")
        head_map = HeadMap.load(show)
    else:
        texts = read_prompts(prompts) if prompts else None
        loaded, _ = read_model(model, device, dtype, weights)
        texts = texts or default_prompts(loaded.name)
        meters = [RegionMeter(loaded.geometry, loaded.device)] if regions or columns or reach or report else []
        with progress() as bar:
            task = bar.add_task(f"{len(texts)} prompts", total=None)

            def on_progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            head_map = measure(loaded, texts, neighbourhood, images, seed, on_progress=on_progress, meters=meters)
        if save:
            head_map.save(save)
        for found in (meter.regions() for meter in meters):
            if regions:
                draw_regions(found, head_map, tau).save(regions)
            if columns:
                draw_columns(found, loaded.name).save(columns)
            if reach:
                draw_reach(found, loaded.name).save(reach)
            if report:
                settings = {"images": images, "seed": seed, "neighbourhood": int(head_map.about["neighbourhood"])}
                about = {"model": loaded.name, "prompts": texts, "settings": settings, "share": head_map.share.tolist()}
                figures = about | found.as_dict() | {"versions": versions(loaded.device)}
                report.write_text(json.dumps(figures), encoding="utf-8")
    if draw:
        draw_map(head_map, tau).save(draw)
    print_map(head_map, tau)


def read_prompts(file: Path) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{file} cannot be read as a text of prompts ({error}); give one prompt a line.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"{file} holds no prompt; give one a line.")
    return prompts


def print_map(head_map: HeadMap, tau: float) -> None:
    """The map as a table of per cent, layers down, heads across, semantic heads in bold."""
    for layer, (shares, colours) in enumerate(zip(head_map.share.tolist(), heat(head_map.share.numpy()), strict=True)):
        line = Text(f"{layer:3} ")
        for share, (red, green, blue) in zip(shares, colours.tolist(), strict=True):
            ink = "white" if share < 0.5 else "black"
            weight = "bold " if share > tau else ""
            line.append(f" {min(share, 0.99) * 100:2.0f}", f"{weight}{ink} on rgb({red},{green},{blue})")
        OUT.print(line, soft_wrap=True)
    semantic = float((head_map.share > tau).float().mean())
    OUT.print(f"{semantic:.0%} of {head_map.share.numel()} heads are semantic (above {tau:g}).")
