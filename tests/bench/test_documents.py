"""What the benches write: pictures and documents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from bench.readme import put_between
from bench.svg import LINE, apart
from ssd_core.errors import UserError


def test_names_stay_apart_and_on_the_picture() -> None:
    wanted = [100.0, 101, 102, 300, 439, 440]
    places = apart(wanted, 440)
    assert all(after - before >= LINE for before, after in pairwise(places))
    assert places[0] == 100
    assert places[3] == 300
    assert places[-1] == 440
    assert apart([], 440) == []


def test_a_document_keeps_what_is_around_the_markers(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- some -->\nold\n<!-- /some -->\nb\n")
    put_between(path, "some", "new")
    assert path.read_text() == "a\n<!-- some -->\n\nnew\n\n<!-- /some -->\nb\n"


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    for text in ("nothing", "<!-- some -->", "<!-- /some --> <!-- some -->"):
        path.write_text(text)
        with pytest.raises(UserError, match="to put the table between"):
            put_between(path, "some", "new")
        assert path.read_text() == text
