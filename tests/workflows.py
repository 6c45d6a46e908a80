"""The shared workflows, for whoever checks or runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
