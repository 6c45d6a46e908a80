from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ssd_core import Full, Window, generate
from ssd_core.cli.compare import figures
from ssd_core.loop import Result
from ssd_core.words import human
from tests.cli.terminal import Terminal, interrupt_at

COMPARE = ("compare", "ab", "cd", "--methods", "full,window", "--budget", 8, "--seed", 3)


def read(output: str) -> tuple[Path, dict[str, list[str]]]:
    """The sheet's path, and the table by method."""
    path, _, *rows = output.splitlines()
    return Path(path), {row[0]: row[1:] for row in (re.split(r"  +", line.strip()) for line in rows)}


def pixels(result: Result) -> list[Any]:
    """A result's pictures as they stand on the sheet, where 8 pixels become 192."""
    return [(image * 255).round().numpy().astype(np.uint8).repeat(24, 0).repeat(24, 1) for image in result.images]


def test_all_methods_draw_the_same_seeds_side_by_side(terminal: Terminal) -> None:
    path, _ = read(terminal.output(*COMPARE))
    sheet: Any = np.asarray(Image.open(path))
    drawn = [generate(terminal.model, ["ab", "cd"], policy, seed=3) for policy in (Full(), Window(8))]
    places = []
    for column, result in enumerate(drawn):
        for row, picture in enumerate(pixels(result)):
            starts = np.argwhere((sheet == picture[0, 0]).all(-1)).tolist()
            fits = [(x, y) for y, x in starts if np.array_equal(sheet[y : y + 192, x : x + 192], picture)]
            assert fits, (row, column)
            places.append(fits[0])
    (left, top), (same_left, second), (right, same_top), _ = places
    assert left == same_left < right
    assert top == same_top < second


def test_the_sheet_says_how_it_can_be_drawn_again(terminal: Terminal) -> None:
    path, _ = read(terminal.output(*COMPARE, "--temperature", 0.5, "--kv-dtype", "fp8"))
    settings = json.loads(Image.open(path).info["settings"])
    told = ("seed", "temperature", "kv_dtype", "budget")
    assert {name: tuple(own.get(setting) for setting in told) for name, own in settings.items()} == {
        "full": (3, 0.5, "fp8", None),
        "window": (3, 0.5, "fp8", 8),
    }


def test_a_small_precision_is_every_method_s(terminal: Terminal) -> None:
    _, rows = read(terminal.output(*COMPARE, "--kv-dtype", "int8"))
    drawn = {
        name: generate(terminal.model, ["ab", "cd"], policy, seed=3, kv_dtype="int8")
        for name, policy in (("full", Full()), ("window", Window(8)))
    }
    for name, result in drawn.items():
        assert rows[name][:2] == [
            human(result.memory.kv_bytes),
            f"{result.memory.kv_bytes / result.memory.kv_bytes_full:.2f}",
        ]


def test_the_table_says_what_each_method_takes(terminal: Terminal) -> None:
    _, rows = read(terminal.output(*COMPARE))
    drawn = {"full": generate(terminal.model, ["ab", "cd"], Full(), seed=3)}
    drawn["window"] = generate(terminal.model, ["ab", "cd"], Window(8), seed=3)
    assert list(rows) == ["full", "window"]
    assert rows["full"][1] == "1.00"
    assert rows["full"][3] == "100%"
    memory = drawn["window"].memory
    assert rows["window"][1] == f"{memory.kv_bytes / memory.kv_bytes_full:.2f}"
    same = (drawn["window"].tokens == drawn["full"].tokens).float().mean()
    assert 0 < same < 1
    assert rows["window"][3] == f"{same:.0%}"
    assert float(rows["window"][2]) > 0


def test_agreement_needs_the_full_cache(terminal: Terminal) -> None:
    _, rows = read(terminal.output("compare", "ab", "--methods", "window, streaming", "--budget", 8))
    assert [row[3] for row in rows.values()] == ["-", "-"]


def test_a_sheet_is_never_overwritten(terminal: Terminal) -> None:
    paths = [read(terminal.output(*COMPARE))[0] for _ in range(2)]
    assert len(set(paths)) == 2
    assert all(path.exists() for path in paths)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--methods", "full,magic"), "magic"),
        (("--methods", "full,full"), "twice"),
        (("--methods", "full,window", "--tau", 0.2), "--tau"),
        (("--methods", "full,window", "--budget", 3), "pinned"),
        (("--methods", "full", "--top-p", 3), "top_p"),
        (("--methods", "full", "--guidance", 1, "--negative", "x"), "guidance"),
    ],
)
def test_mistakes_are_refused_before_anything_is_drawn(
    terminal: Terminal, args: tuple[object, ...], word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssd_core.cli.drawing.generate", None) if "--negative" not in args else None
    assert word in terminal.refusal("compare", "ab", *args)
    assert not list(terminal.folder.glob("out/*"))


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_the_methods_out_that_were_not_begun(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 4 + 6)  # a row to warm up
    result = terminal.run(*COMPARE)
    assert result.exit_code == 0
    path, rows = read(result.stdout)
    assert "Stopped after row 2 of 4" in result.stderr
    assert list(rows) == ["full"]
    assert path.exists()


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_in_the_last_row_is_heard(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 4 + 16)
    path, rows = read(terminal.run(*COMPARE).stdout)
    assert list(rows) == ["full"]
    assert path.exists()


def test_agreement_is_taken_over_what_both_have_drawn(terminal: Terminal) -> None:
    whole = generate(terminal.model, ["ab"], Full())
    half = generate(terminal.model, ["ab"], Full(), on_row=lambda row, *_: row == 1)
    for results in ({"window": whole, "full": half}, {"window": half, "full": whole}):
        assert list(figures(results).columns[-1].cells) == ["100%", "100%"]
