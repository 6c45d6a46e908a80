"""What was measured, a JSON line for each cell: a method at a budget, on a batch of prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssd_core.errors import UserError

Record = dict[str, Any]
KEY = ("cell", "method", "budget", "policy", "seed", "captions")


def key_of(record: Record) -> tuple[Any, ...]:
    """What tells a cell from the others: what is measured, of what, on what."""
    return tuple(record[name] for name in KEY)


class Ledger:
    """A file of JSON lines that grows by a cell at a time; its first line holds the settings that all cells share."""

    def __init__(self, path: Path, settings: Record | None = None) -> None:
        """Read the file, or begin it with these settings.

        Raises UserError where it was begun with other settings, or none are given to begin it with.
        """
        self.path = path
        # a line that was cut short, because somebody pulled the plug, has no end
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        try:
            found = [json.loads(line) for line in whole]
            self.settings: Record = found[0]["settings"] if found else (settings or {})
        except (json.JSONDecodeError, KeyError):
            raise UserError(f"{path} holds something else than results; give another --out.") from None
        if not self.settings:
            raise UserError(f"There are no results in {path}.")
        changed = [name for name, value in (settings or self.settings).items() if self.settings.get(name) != value]
        if changed:
            raise UserError(f"{path} was drawn with another {changed[0]}; give another --out, or remove it.")
        self.records: list[Record] = found[1:]
        self.done = {key_of(record) for record in self.records}
        if settings and (not found or whole != lines):
            self._write_all()

    def add(self, record: Record) -> None:
        """Keep a cell, at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        self.records.append(record)
        self.done.add(key_of(record))

    def drop(self, superseded: Callable[[Record], bool]) -> int:
        """Forget cells; returns how many."""
        kept = [record for record in self.records if not superseded(record)]
        dropped = len(self.records) - len(kept)
        if dropped:
            self.records, self.done = kept, set(map(key_of, kept))
            self._write_all()
        return dropped

    def _write_all(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".tmp")
        lines = [{"settings": self.settings}, *self.records]
        fresh.write_text("".join(map(_line, lines)), encoding="utf-8")
        fresh.replace(self.path)


def _line(record: Record) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"
