"""The help page of each node, in each language: every input and output has its row, and nothing else has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.nodes.object_info import chosen, flat

DOCS = Path(__file__).parents[2] / "web" / "docs"
HEADINGS = {"en": ("Inputs", "Outputs"), "zh": ("输入", "输出")}


def page(node: str, language: str) -> Path:
    """Where ComfyUI's page looks: the language's own page first, then the one without a language."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def rows(text: str, heading: str) -> list[str]:
    """The names in the first column of the table below a heading."""
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


@pytest.mark.parametrize("language", HEADINGS)
def test_every_node_has_its_page(info: dict[str, Any], language: str) -> None:
    for name, node in info.items():
        text = page(name, language).read_text(encoding="utf-8")
        inputs, outputs = HEADINGS[language]
        assert sorted(rows(text, inputs)) == sorted([*flat(node["input"]), *chosen(node["input"])]), name
        assert rows(text, outputs) == node["output_name"], name


def test_no_page_is_of_nothing(info: dict[str, Any]) -> None:
    pages = {page(name, language) for name in info for language in HEADINGS}
    assert {path for path in DOCS.rglob("*") if path.is_file()} == pages
