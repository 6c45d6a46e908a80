"""A command line to test with."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ssd_core.cli import app
from ssd_core.models.base import ImageModel
from tests.table import watch


class Terminal:
    """Runs commands in a folder, and keeps what models they asked for."""

    def __init__(self, model: ImageModel, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.loaded: list[tuple[str, dict[str, str]]] = []

    def load(self, path: str, **how: str) -> ImageModel:
        self.loaded.append((path, how))
        return self.model

    def run(self, *args: object) -> Any:
        """The result of a command, with exit_code, stdout and stderr."""
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, args)), catch_exceptions=False)

    def output(self, *args: object) -> str:
        """What a command that works writes to standard output."""
        result = self.run(*args)
        assert result.exit_code == 0, result.stderr
        return str(result.stdout)

    def refusal(self, *args: object) -> str:
        """The one line with which a command refuses."""
        result = self.run(*args)
        assert result.exit_code == 1
        [line] = result.stderr.splitlines()
        assert not result.stdout
        return str(line)

    def generate(self, *args: object) -> dict[str, Any]:
        """The report of `generate`."""
        self.output("generate", *args, "--report", "report.json")
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return report

    def tokens(self, *args: object) -> list[list[int]]:
        """The tokens that `generate` draws."""
        return [image["tokens"] for image in self.generate(*args)["images"]]


def rows(output: str) -> dict[str, list[str]]:
    """A printed table by its first column."""
    return {row[0]: row[1:] for row in (re.split(r"  +", line.strip()) for line in output.splitlines())}


def interrupt_at(monkeypatch: pytest.MonkeyPatch, *calls: int) -> None:
    """Press Ctrl-C while these tokens are drawn, counted from 1."""
    count = 0

    def press(_: object) -> None:
        nonlocal count
        count += 1
        if count in calls:
            signal.raise_signal(signal.SIGINT)

    watch(monkeypatch, press)
