"""The command line: one file a command."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ..errors import UserError

COMMANDS = {
    "generate": "Draw pictures of prompts.",
    "compare": "Draw the same pictures with several cache methods, side by side.",
    "plan": "Say what a batch will take of memory, before anything is loaded.",
    "inspect": "Say what a checkpoint is.",
    "heads": "Measure or show which heads are semantic.",
    "eval": "Score pictures.",
    "pack": "Put a model's folder into one file.",
}


class Commands(TyperGroup):
    """The commands by name; a command's file, and torch with it, is imported when that command is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        command = import_module(f".{name}", __name__).app
        return name, typer.main.get_command(command), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="ssd-janus",
    help="Draw with Janus-Pro while keeping only the keys and values each attention head needs.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for name, about in COMMANDS.items():
    app.command(name, help=about)(lambda: None)


def main() -> None:
    """The console script."""
    app(prog_name="ssd-janus")
