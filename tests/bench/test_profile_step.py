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


def test_the_first_rows_are_for_warming_up(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        profile_step.main(["--row", "1"])
    assert "--row is 2 or more" in capsys.readouterr().err
