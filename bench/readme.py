"""What the benches write into a document: Markdown between markers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssd_core.errors import UserError


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def put_between(path: Path, name: str, markdown: str) -> None:
    """Put text between the markers <!-- name --> and <!-- /name --> of a file; raises UserError where it has none."""
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, begin, rest = path.read_text(encoding="utf-8").partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise UserError(f"{path} has no {first} and {last} to put the table between.")
    path.write_text(f"{before}{first}\n\n{markdown}\n\n{last}{after}", encoding="utf-8")
