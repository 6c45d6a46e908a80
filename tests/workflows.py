"""The shared workflows, for whoever checks or runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def graph(name: str) -> dict[str, Any]:
    """A workflow as ComfyUI's page saves it."""
    return read(FOLDER / f"{name}.json")


def prompt(name: str) -> dict[str, Any]:
    """Its twin for whoever has no page, as POST /prompt takes it."""
    return read(FOLDER / "api" / f"{name}.json")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def comfy_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run comfy-cli, that of this Python first. Skips the test that asks where there is none."""
    command = shutil.which("comfy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if command is None:
        pytest.skip("comfy-cli is not installed: pip install -e '.[dev]'")
    whole = [command, "--skip-prompt", *arguments]
    return subprocess.run(whole, capture_output=True, text=True, env=os.environ | {"DO_NOT_TRACK": "1"})  # noqa: S603
