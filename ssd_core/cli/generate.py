"""ssd-janus generate"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from ..cache.storage import check_kv_dtype
from ..choice import check_step
from ..encoding import encode
from ..errors import UserError
from ..pictures import read, save, to_pil
from ..policies import DEFAULT, METHODS
from ..report import report, settings_of
from ..sampling import Sampling
from ..start import keep_of
from ..words import human
from .drawing import draw
from .fields import with_options
from .options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    KVDtypeOption,
    MethodOption,
    ModelOption,
    NegativeOption,
    OutOption,
    PromptsArgument,
    ReportOption,
    SeedOption,
    StepOption,
    WeightsOption,
    make_folder,
    policies_of,
    prepare_file,
    read_model,
)

app = typer.Typer(add_completion=False)


@app.command()
@with_options(options=METHODS, sampling={"": Sampling})
def generate(
    prompts: PromptsArgument,
    options: dict[str, Any],
    sampling: dict[str, Any],
    model: ModelOption = EMBEDDED,
    method: MethodOption = DEFAULT,
    images: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    seed: SeedOption = 0,
    negative: NegativeOption = None,
    start: Annotated[
        Path | None, typer.Option(metavar="PNG", help="A picture to begin with.", show_default=False)
    ] = None,
    keep_rows: Annotated[
        int, typer.Option(help="Of --start: as many rows of tokens, from the top, stay; the rest is drawn.")
    ] = 0,
    mask: Annotated[
        Path | None,
        typer.Option(metavar="PNG", help="Of --start: what is white here is drawn anew.", show_default=False),
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    weights: WeightsOption = "auto",
    step: StepOption = "auto",
    kv_dtype: KVDtypeOption = "auto",
    out: OutOption = Path("out"),
    report_to: ReportOption = None,
) -> None:
    """Draw pictures of prompts, all at once. Ctrl-C stops after the row and keeps what was drawn."""
    policy, chosen = policies_of([method], options)[method], Sampling(**sampling)
    check_kv_dtype(kv_dtype)
    check_step(step)
    picture, painted = pictures_of(start, keep_rows, mask)
    make_folder(out)
    if report_to:
        prepare_file(report_to)
    loaded, load_seconds = read_model(model, device, dtype, weights)
    policy = policy.fit(loaded)
    drawing = {"images_per_prompt": images, "seed": seed, "negative": negative, "kv_dtype": kv_dtype}
    drawing |= {"step": step} | asdict(chosen)
    begun: dict[str, Any] = {}
    origin: dict[str, Any] = {}
    if picture is not None:
        begun = {"start": encode(loaded, picture[None]), "keep": keep_of(loaded.geometry, keep_rows, painted)}
        origin = {"start": str(start), "keep_rows": keep_rows, "mask": str(mask) if mask else None}
    result, _ = draw(loaded, prompts, policy, method, **drawing, **begun)
    captions = [prompt for prompt in prompts for _ in range(images)]
    settings = settings_of(loaded, policy, drawing | origin)
    about = {"model": loaded.name, "method": method, "settings": json.dumps(settings)}
    texts = [{"prompt": prompt, "seed": str(own)} | about for prompt, own in zip(captions, result.seeds, strict=True)]
    files = save(out, to_pil(result.images), texts)
    if report_to:
        run = report(loaded, policy, drawing | origin, captions, result)
        run["seconds"]["load"] = load_seconds
        for image, file, tokens in zip(run["images"], files, result.tokens.tolist(), strict=True):
            image |= {"file": str(file), "tokens": tokens}
        report_to.write_text(json.dumps(run, indent=1), encoding="utf-8")
    for file in files:
        typer.echo(file)
    memory = result.memory
    typer.echo(
        f"{method}: keys and values {human(memory.kv_bytes)}, {memory.kv_bytes / memory.kv_bytes_full:.2f} of the full "
        f"cache; {result.tokens_per_second:.0f} tokens/s; step {result.step}."
    )


def pictures_of(start: Path | None, rows: int, mask: Path | None) -> tuple[Tensor | None, Tensor | None]:
    """The picture to begin with and its mask, where there are any; raises UserError where one lacks the other."""
    if start is None:
        if rows or mask:
            raise UserError("--keep-rows and --mask say what stays of a picture; give it with --start.")
        return None, None
    if not rows and mask is None:
        raise UserError("--start has no effect unless something of it stays; give --keep-rows or --mask.")
    return read(start), read(mask, "L") if mask else None
