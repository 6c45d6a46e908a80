"""The profiler's view of a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import profile_step


def test_a_step_is_shown_by_operation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "step.json"
    profile_step.main(["--method", "window", "--step", "plain", "--row", "2", "--lines", "4", "--trace", str(trace)])
    whole, *lines = capsys.readouterr().out.splitlines()
    times = [float(line.split(" us a step")[0]) for line in lines]
    assert len(times) == 4
    took, seen = (float(part.split(" us")[0]) for part in whole.split(", "))
    assert sum(times) < seen < took
    assert times == sorted(times, reverse=True)
    assert times[-1] > 0
    assert any("aten::mm" in line or "aten::linear" in line or "aten::addmm" in line for line in lines)
    assert json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--row", "1"], "--row is 2 or more"),
        (["--batch", "0"], "a number, 1 at least, not 0"),
        (["--method", "full", "--budget", "0.2"], "leave --budget out"),
    ],
)
def test_what_has_no_meaning_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        profile_step.main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--row", "40"], "The grid has 24 rows"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--weights", "int8", "--step", "graph", "--device", "cpu"], "graph"),
    ],
)
def test_a_mistake_ends_in_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit, match=sentence):
        profile_step.main(arguments)


def test_a_step_of_small_weights_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    profile_step.main(["--row", "2", "--lines", "40", "--weights", "int8", "--step", "plain"])
    assert "_weight_int8pack_mm" in capsys.readouterr().out
