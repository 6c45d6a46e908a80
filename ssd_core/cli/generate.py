"""ssd-janus generate"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..pictures import save, to_pil
from ..policies import METHODS
from ..report import policy_settings, report
from ..sampling import Sampling
from ..words import human
from .drawing import draw
from .fields import with_options
from .options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    MethodOption,
    ModelOption,
    NegativeOption,
    OutOption,
    PromptsArgument,
    ReportOption,
    SeedOption,
    make_folder,
    policies_of,
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
    method: MethodOption = "ssd",
    images: Annotated[int, typer.Option(help="Pictures of each prompt.")] = 1,
    seed: SeedOption = 0,
    negative: NegativeOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    out: OutOption = Path("out"),
    report_to: ReportOption = None,
) -> None:
    """Draw pictures of prompts, all at once. Ctrl-C stops after the row and keeps what was drawn."""
    policy, chosen = policies_of([method], options)[method], Sampling(**sampling)
    for folder in (out, report_to.parent) if report_to else (out,):
        make_folder(folder)
    loaded, load_seconds = read_model(model, device, dtype)
    policy = policy.fit(loaded)
    drawing = {"images_per_prompt": images, "seed": seed, "negative": negative} | asdict(chosen)
    result = draw(loaded, prompts, policy, method, **drawing)
    settings = drawing | policy_settings(policy) | {"dtype": str(loaded.dtype).removeprefix("torch.")}
    captions = [prompt for prompt in prompts for _ in range(images)]
    about = {"model": loaded.name, "method": method, "settings": json.dumps(settings)}
    texts = [{"prompt": prompt, "seed": str(own)} | about for prompt, own in zip(captions, result.seeds, strict=True)]
    files = save(out, to_pil(result.images), texts)
    if report_to:
        run = report(loaded, method, settings, captions, files, result, load_seconds)
        report_to.write_text(json.dumps(run, indent=1), encoding="utf-8")
    for file in files:
        typer.echo(file)
    memory = result.memory
    typer.echo(
        f"{method}: keys and values {human(memory.kv_bytes)}, {memory.kv_bytes / memory.kv_bytes_full:.2f} of the full "
        f"cache; {result.tokens_per_second:.0f} tokens/s."
    )
