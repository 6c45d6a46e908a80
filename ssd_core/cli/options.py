"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from ..cache.storage import KV_DTYPES
from ..choice import STEPS
from ..errors import UserError
from ..models.base import ImageModel
from ..models.checkpoint import load
from ..models.small import WEIGHTS, check_weights
from ..policies import METHODS, Policy
from .console import ERR
from .fields import flag

EMBEDDED = "janus-shapes"

PromptsArgument = Annotated[list[str], typer.Argument(help="What to draw, each prompt in quotes.")]
ModelOption = Annotated[
    str, typer.Option(help=f"'{EMBEDDED}', the embedded model, or the folder or file of a Janus checkpoint.")
]
MethodOption = Annotated[str, typer.Option(help=f"The cache method: {', '.join(METHODS)}.")]
SeedOption = Annotated[int, typer.Option(help="Image k is drawn with this + k.")]
NegativeOption = Annotated[str | None, typer.Option(help="What guidance leads away from.", show_default=False)]
DeviceOption = Annotated[str, typer.Option(help="Such as cpu, cuda:0, mps; auto is a GPU if there is one.")]
DtypeOption = Annotated[str, typer.Option(help="bf16, fp16 or fp32; auto fits the device.")]
StepOption = Annotated[
    str,
    typer.Option(
        help=f"How a token is drawn: {', '.join(STEPS)}; auto is a CUDA graph where one works, else a kernel where one "
        "does, else plain; compiled takes half a minute for the compiler before the first token."
    ),
]
KVDtypeOption = Annotated[
    str, typer.Option(help=f"What keys and values are kept in: {', '.join(KV_DTYPES)}; auto is --dtype's.")
]
WeightsOption = Annotated[
    str,
    typer.Option(help=f"What the decoder's matrices are kept in: {', '.join(WEIGHTS)}; auto is --dtype's."),
]
OutOption = Annotated[Path, typer.Option(metavar="DIR", help="The folder to write into.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", metavar="FILE.json", help="Write the run's figures here.", show_default=False)
]


def policies_of(methods: Sequence[str], options: Mapping[str, Any]) -> dict[str, Policy]:
    """The policies of methods by name, each with those of the options that it takes.

    Raises UserError for an unknown or repeated method, and for an option that none of them takes.
    """
    for name in methods:
        if name not in METHODS:
            raise UserError(f"There is no method {name!r}; choose from {', '.join(METHODS)}.")
        if methods.count(name) > 1:
            raise UserError(f"The method {name} is named twice; once is enough.")
    takes = {name: parameter_names(METHODS[name]) for name in methods}
    for option in options:
        if not any(option in taken for taken in takes.values()):
            others = " and ".join(name for name, cls in METHODS.items() if option in parameter_names(cls))
            raise UserError(f"{flag(option)} is for {others}, not for {' and '.join(methods)}; leave it out.")
    return {
        name: METHODS[name](**{option: value for option, value in options.items() if option in taken})
        for name, taken in takes.items()
    }


def parameter_names(policy: Any) -> set[str]:
    """The parameters of a policy's class."""
    return {field.name for field in fields(policy)}


def read_model(path_or_name: str, device: str, dtype: str, weights: str) -> tuple[ImageModel, float]:
    """A model that can draw, and the seconds it took to read."""
    check_weights(weights)
    start = time.perf_counter()
    with ERR.status(Text(f"Reading {path_or_name}")):
        model = load(path_or_name, device=device, dtype=dtype, weights=weights)
    return model, time.perf_counter() - start


def make_folder(folder: Path) -> None:
    """Make a folder before work is spent on what goes into it; raises UserError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made a folder ({error.strerror}); choose another.") from None
    if not os.access(folder, os.W_OK):
        raise UserError(f"Nothing can be written into {folder}; choose another folder.")


def prepare_file(file: Path) -> None:
    """Make room for a file before work is spent on what goes into it; raises UserError where it cannot be written."""
    make_folder(file.parent)
    if file.is_dir():
        raise UserError(f"{file} is a folder; give the name of a file.")


def refuse_given(context: typer.Context, allowed: Collection[str], reason: str) -> None:
    """Raise UserError if an option that is not among `allowed` stands on the command line."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{reason}, so {flag(name)} has no effect; leave it out.")
