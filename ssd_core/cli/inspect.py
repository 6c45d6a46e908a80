"""ssd-janus inspect"""

from __future__ import annotations

from typing import Annotated

import typer

from ..models.checkpoint import Inspection, Part
from ..models.checkpoint import inspect as inspect_checkpoint
from ..words import human
from .console import ERR, OUT, table

app = typer.Typer(add_completion=False)


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A Janus checkpoint's folder or file.", show_default=False)],
) -> None:
    """Say what a checkpoint is and what it lacks, without reading its weights.

    The exit code is 1 if it cannot be loaded.
    """
    found = inspect_checkpoint(path)
    facts = table("", "")
    for label, fact in overview(found).items():
        facts.add_row(label, fact)
    OUT.print(facts)
    if found.parts:
        OUT.print()
        OUT.print(parts(found))
    for problem in found.problems:
        ERR.print(problem, style="red", soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


def overview(found: Inspection) -> dict[str, str]:
    """What is known of a checkpoint as a whole."""
    facts = {"path": str(found.path), "family": found.family or "unknown", "layout": found.layout or "unknown"}
    geometry = found.geometry
    if geometry:
        facts["decoder"] = f"{geometry.layers} layers x {geometry.heads} heads of {geometry.head_dim}"
        facts["picture"] = f"{geometry.rows} x {geometry.columns} tokens of {geometry.codebook}"
    return facts | {"tokenizer": f"{found.ids} ids" if found.ids else "unknown", "dtype": found.dtype or "unknown"}


def parts(found: Inspection) -> object:
    """The checkpoint's parts."""
    figures = table("part", "tensors", "bytes", "missing")
    for name, part in (found.parts | found.unneeded).items():
        figures.add_row(name, str(part.tensors), human(part.bytes), missing(part, name in found.parts))
    return figures


def missing(part: Part, needed: bool) -> str:
    """What a part lacks, in a few words."""
    if not needed:
        return "not needed"
    if part.missing is None:
        return "unknown"
    return str(len(part.missing)) if part.missing else "-"
