"""ssd-janus plan"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer

from ..cache.storage import check_kv_dtype
from ..choice import STEPS, check_step
from ..memory import largest_batch
from ..memory import plan as plan_memory
from ..models.base import ImageModel
from ..models.checkpoint.files import Checkpoint
from ..models.checkpoint.plan import Plan
from ..models.known import KNOWN, known
from ..models.placement import choose_dtype, codec_dtype
from ..models.small import check_weights
from ..policies import DEFAULT, METHODS, Full, Policy
from ..words import bytes_of, human, parts, slots
from .console import ERR, OUT, table
from .fields import with_options
from .options import EMBEDDED, KVDtypeOption, MethodOption, WeightsOption, policies_of

GPU = torch.device("cuda")  # what is planned for, whether or not this machine has one
app = typer.Typer(add_completion=False)


@app.command()
@with_options(options=METHODS)
def plan(
    options: dict[str, Any],
    model: Annotated[
        str,
        typer.Option(help=f"{', '.join(KNOWN)}, whose sizes are known, '{EMBEDDED}', or a Janus checkpoint's path."),
    ] = EMBEDDED,
    method: MethodOption = DEFAULT,
    images: Annotated[int, typer.Option(help="Pictures of one prompt that are drawn at once.")] = 1,
    prompt_tokens: Annotated[int, typer.Option(help="The prompt's length, template included.")] = 24,
    guidance: Annotated[float, typer.Option(help="1 draws one row a picture, anything else two.")] = 5.0,
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32; auto is bf16.")] = "bf16",
    weights: WeightsOption = "auto",
    kv_dtype: KVDtypeOption = "auto",
    step: Annotated[
        str, typer.Option(help=f"How a token is drawn: {', '.join(STEPS)}; auto is a graph, as for any GPU.")
    ] = "auto",
    vram: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Also say how many pictures fit; such as 8GB or 7.5GiB.", show_default=False),
    ] = None,
) -> None:
    """Say what a batch will take of memory, with a method and with the full cache. No weight is read."""
    check_kv_dtype(kv_dtype)
    check_weights(weights)
    check_step(step)
    step = "graph" if step == "auto" else step
    free = None if vram is None else bytes_of(vram, "--vram")
    nothing = empty(model, dtype, weights)
    policy = policies_of([method], options)[method]
    name = method if kv_dtype == "auto" else f"{method}, {kv_dtype}"
    ways: dict[str, tuple[Policy, str]] = {name: (policy, kv_dtype)} | {"full": (Full(), "auto")}
    figures = table(f"{nothing.name}, {images} at once", *ways)
    plans = [
        plan_memory(nothing, own, images, prompt_tokens, guidance, kv_dtype=kept_in, step=step)
        for own, kept_in in ways.values()
    ]
    for label, part in parts(*plans).items():
        figures.add_row(label, *(human(getattr(memory, part)) for memory in plans))
    figures.add_row("slots a head", *map(slots, plans))
    if free is not None:
        with ERR.status("Counting pictures"):
            most = [
                largest_batch(nothing, own, free, prompt_tokens, guidance, kv_dtype=kept_in, step=step)
                for own, kept_in in ways.values()
            ]
        figures.add_row(f"pictures that fit into {vram}", *map(str, most))
    OUT.print(figures)


def empty(path_or_name: str, dtype: str, weights: str = "auto") -> ImageModel:
    """A model of the sizes of a checkpoint or of a published one, without weights."""
    kind = choose_dtype("bf16" if dtype == "auto" else dtype, GPU)
    codec = codec_dtype(kind, GPU)
    if path_or_name in KNOWN:
        model = known(path_or_name, kind, codec)
    else:
        found = Plan(Checkpoint(path_or_name), dtype=kind, codec_dtype=codec)
        found.check()
        model = found.model
    if weights != "auto":
        model.shrink(weights, GPU.type)
    return model
