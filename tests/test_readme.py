from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ssd_core.cli.fields import flag
from ssd_core.policies import METHODS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_row(name: str) -> None:
    policy: Any = METHODS[name]
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}` |")]
    assert f"`{policy.__name__}`" in row
    assert re.findall(r"--[\w-]+", row) == [flag(field.name) for field in fields(policy)]
