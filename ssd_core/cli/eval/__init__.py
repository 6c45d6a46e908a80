"""ssd-janus eval"""

from __future__ import annotations

import typer

from ...evaluate.benchmarks import BENCHMARKS
from . import benchmarks, clip, shapes

app = typer.Typer(add_completion=False)


@app.callback()
def evaluate() -> None:
    """Score pictures, or draw those that others' scorers read."""


app.command("shapes")(shapes.shapes)
for name, kind in BENCHMARKS.items():
    about = f"""Draw {kind.title}'s prompts into the folder that its own scorer reads.

    Ctrl-C stops after the row; started again, the same command draws what is missing. Of n pictures a prompt, picture k
    of prompt p, both counted from 0, is drawn with seed + n p + k.
    """
    app.command(name, help=about)(benchmarks.command(kind))
app.command("clip")(clip.clip)
