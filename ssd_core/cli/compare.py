"""ssd-janus compare"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..cache.storage import check_kv_dtype
from ..evaluate.fidelity import agreement
from ..loop import Result, generate
from ..memory import plan
from ..models.base import ImageModel
from ..pictures import save, to_pil
from ..policies import METHODS, Policy
from ..report import settings_of
from ..sampling import Sampling
from ..sheet import contact_sheet
from ..words import human
from .console import OUT, table
from .drawing import draw
from .fields import with_options
from .options import (
    EMBEDDED,
    DeviceOption,
    DtypeOption,
    KVDtypeOption,
    ModelOption,
    NegativeOption,
    OutOption,
    PromptsArgument,
    SeedOption,
    WeightsOption,
    make_folder,
    policies_of,
    read_model,
)

app = typer.Typer(add_completion=False)


@app.command()
@with_options(options=METHODS, sampling={"": Sampling})
def compare(
    prompts: PromptsArgument,
    options: dict[str, Any],
    sampling: dict[str, Any],
    methods: Annotated[str, typer.Option(help=f"Of {', '.join(METHODS)}, with commas between.")] = "full,window,ssd",
    model: ModelOption = EMBEDDED,
    seed: SeedOption = 0,
    negative: NegativeOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    weights: WeightsOption = "auto",
    kv_dtype: KVDtypeOption = "auto",
    out: OutOption = Path("out"),
) -> None:
    """Draw one picture of each prompt with each method and the same seeds, and lay them side by side.

    An option of a method goes to all that take it. Ctrl-C stops after the row and shows what was drawn.
    """
    policies = policies_of([name.strip() for name in methods.split(",")], options)
    chosen = Sampling(**sampling)  # refuses what cannot be sampled before anything is read
    check_kv_dtype(kv_dtype)
    make_folder(out)
    loaded, _ = read_model(model, device, dtype, weights)
    drawing = {"seed": seed, "negative": negative, "kv_dtype": kv_dtype} | asdict(chosen)
    results = draw_each(loaded, prompts, policies, drawing)
    columns = [f"{name}\n{human(result.memory.kv_bytes)}" for name, result in results.items()]
    pictures = zip(*(to_pil(result.images) for result in results.values()), strict=True)
    settings = {name: settings_of(loaded, policies[name].fit(loaded), drawing) for name in results}
    text = {"prompt": " | ".join(prompts), "model": loaded.name, "settings": json.dumps(settings)}
    [path] = save(out, [contact_sheet(columns, prompts, list(pictures))], [text])
    typer.echo(path)
    OUT.print(figures(results))


def draw_each(
    model: ImageModel, prompts: Sequence[str], policies: Mapping[str, Policy], drawing: Mapping[str, Any]
) -> dict[str, Result]:
    """What each method draws; none after one that was stopped."""
    longest = max(len(model.encode(prompt)) for prompt in prompts)
    for policy in policies.values():
        # refuses what cannot be drawn before the first method has drawn
        plan(model, policy, prompt=longest, kv_dtype=drawing["kv_dtype"])
    # a row of one picture, so that no method pays for what a device does once
    generate(model, prompts[:1], on_row=lambda *_: True)
    results: dict[str, Result] = {}
    for name, policy in policies.items():
        results[name], stopped = draw(model, prompts, policy, name, **drawing)
        if stopped:
            break
    return results


def figures(results: Mapping[str, Result]) -> Table:
    """A row for each method."""
    rows = table("method", "keys and values", "of the full cache", "tokens/s", "tokens as with full")
    for name, result in results.items():
        memory, reference = result.memory, results.get("full")
        share = f"{memory.kv_bytes / memory.kv_bytes_full:.2f}"
        same = f"{agreement(result.tokens, reference.tokens).mean():.0%}" if reference else "-"
        rows.add_row(name, human(memory.kv_bytes), share, f"{result.tokens_per_second:.0f}", same)
    return rows
