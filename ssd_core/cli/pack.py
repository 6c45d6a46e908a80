"""ssd-janus pack"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from ..errors import UserError
from ..models.checkpoint import save_single_file
from ..words import human
from .console import ERR
from .options import prepare_file

app = typer.Typer(add_completion=False)


@app.command()
def pack(
    folder: Annotated[str, typer.Argument(help="A Janus checkpoint's folder.", show_default=False)],
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="What to write.", show_default=False)],
) -> None:
    """Put what drawing needs of a checkpoint, weights, configuration and tokenizer, into one safetensors file."""
    if file.exists():
        raise UserError(f"{file} exists already; choose another name or remove it.")
    prepare_file(file)
    with ERR.status(Text(f"Packing {folder}")):
        save_single_file(folder, file)
    typer.echo(f"{file}: {human(file.stat().st_size)}")
