"""From cells to rows, tables and a plot; and that those of the repository are made of its results."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from bench.quality.__main__ import PLOT, README, RESULTS, as_json
from bench.quality.ledger import Ledger
from bench.quality.plot import plot
from bench.quality.render import markdown
from bench.quality.summary import Row, interval, overall, summary
from ssd_core.models.checkpoint.files import Checkpoint


def record(method: str, right: list[int], *, budget: float = 1.0, seed: int = 0, **more: Any) -> dict[str, Any]:
    tasks = ["single", "single", "two", "counting"]
    figures = {"agreement": [0.5] * 4, "kv_bytes": 20, "kv_bytes_full": 100, "bookkeeping_bytes": 5, "peak_bytes": seed}
    about = {"cell": "drawn", "method": method, "budget": budget, "policy": "", "seed": seed, "seconds": 2.0}
    return about | {"tasks": tasks, "right": right} | figures | more


def forced(method: str, error: float, *, budget: float = 1.0) -> dict[str, Any]:
    about = {"cell": "forced", "method": method, "budget": budget, "policy": "", "seed": 0}
    return about | {"kl": [0.1, 0.3], "cross_entropy": [1.0, 2.0], "squared_error": [error, 0.0], "ssim": [1.0, 0.5]}


RECORDS = [
    record("full", [1, 1, 1, 0], seed=0),
    forced("full", 0.0),
    record("full", [0, 1, 1, 1], seed=4),
    record("window", [1, 0, 1, 0], budget=0.2, seed=0, agreement=[0.2, 0.4, 0.6, 0.8]),
    forced("window", 0.02, budget=0.2),
    record("window", [1, 1, 1, 1], budget=0.5, seed=0),
    record("window", [0, 0, 0, 1], budget=0.2, seed=4),
    {**record("ssd", [], budget=0.2, seed=0), "refused": "It does not fit.", "prompts": 4},
    record("ssd", [1, 1, 1, 1], budget=0.2, seed=4),
]


def test_a_row_is_the_mean_of_its_cells() -> None:
    rows = summary(RECORDS)
    assert [(row.method, row.budget) for row in rows] == [("full", 1.0), ("window", 0.5), ("window", 0.2), ("ssd", 0.2)]
    full, _, window, _ = rows
    assert full.shapes_eval == pytest.approx((3 / 4 + 1 + 1 / 2) / 3)  # tasks count alike
    assert window.accuracy == {"single": 0.25, "two": 0.5, "counting": 0.5}
    assert window.shapes_eval == pytest.approx(1.25 / 3)
    assert window.difference == pytest.approx(1.25 / 3 - 2.25 / 3)
    assert (window.prompts, window.refused, window.agreement) == (8, 0, 0.5)
    assert (window.cache, window.held, window.peak_bytes, window.seconds) == (0.2, 0.25, 4, 4.0)
    assert (window.forced, window.cross_entropy, window.ssim, window.squared_error) == (2, 1.5, 0.75, 0.01)
    assert window.kl == pytest.approx(0.2)
    assert window.psnr == pytest.approx(20)
    assert (full.squared_error, full.psnr, full.interval) == (0.0, None, (0.0, 0.0))


def test_a_method_is_compared_on_the_prompts_it_has() -> None:
    *_, ssd = summary(RECORDS)
    assert (ssd.prompts, ssd.refused, ssd.refusal) == (4, 4, "It does not fit.")
    assert ssd.difference == pytest.approx((0.5 + 0 + 0) / 3)  # to [0, 1, 1, 1] of the full cache
    _, window, *_ = summary(RECORDS)
    assert window.difference == pytest.approx((0 + 0 + 1) / 3)  # to [1, 1, 1, 0]


def test_the_interval_is_that_of_the_paired_difference() -> None:
    rng = np.random.default_rng(0)
    tasks = np.repeat(["single", "two"], [300, 100])
    full = rng.random(400) < 0.5
    other = np.where(rng.random(400) < 0.1, ~full, full)  # of ten prompts nine come out as with the full cache
    values = other.astype(int) - full
    low, high = interval(tasks, values)
    assert low < overall(tasks, values) < high
    parts = [values[tasks == task] for task in ("single", "two")]
    error = np.sqrt(sum(part.var() / len(part) for part in parts)) / 2
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert interval(tasks, values) == (low, high)
    assert interval(tasks, 0 * values) == (0, 0)


def test_the_tables_show_what_was_measured() -> None:
    text = markdown(summary(RECORDS))
    assert "ShapesEval with the full cache is 0.750 on 8 prompts." in text
    short = text.splitlines()[4:6]
    assert text.splitlines()[2:4] == ["| method | 50 % | 20 % |", "| --- | --- | --- |"]
    assert re.fullmatch(
        r"\| window \| \+0.333 \(\S+ to \S+; 4 prompts\) \| -0.333 \(-0.\d{3} to [-+]\d.\d{3}\) \|", short[0]
    )
    assert short[1] == "| ssd |  | refused for 4 of 8 |"
    assert "| window | 20 % | 8 | 0.417 | -0.333 |" in text
    assert "| 0.2 | 1.5000 | 20.0 | 0.750 | 0.200 | 0.250 |" in text
    assert "- ssd at 20 %, 4 of 8 prompts: It does not fit." in text


def test_the_plot_shows_every_point_and_name_once() -> None:
    text = plot(summary(RECORDS))
    ElementTree.fromstring(text)  # noqa: S314
    assert text.count(">window<") == 1
    assert ">ssd<" not in text  # refused in part
    assert text.count("<circle") == 3  # two points, and the sample beside the name
    for share in (">100 %<", ">50 %<", ">20 %<"):
        assert share in text
    assert plot(summary(RECORDS)) == text


BEGIN, END = "<!-- quality -->", "<!-- /quality -->"


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return Ledger(RESULTS.with_suffix(".jsonl"))


@pytest.fixture(scope="module")
def rows(ledger: Ledger) -> list[Row]:
    return summary(ledger.records)


def test_the_readme_shows_the_results(rows: list[Row]) -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.split(BEGIN)[1].split(END)[0].strip() == markdown(rows)
    assert PLOT.read_text(encoding="utf-8") == plot(rows)


def test_the_results_are_one_and_of_the_shipped_weights(ledger: Ledger, rows: list[Row]) -> None:
    assert RESULTS.with_suffix(".json").read_text(encoding="utf-8") == as_json(ledger, rows)
    assert json.loads(as_json(ledger, rows))["rows"][0].keys() == asdict(rows[0]).keys()
    weights = 0
    for file in Checkpoint("janus-shapes").files:
        weights = zlib.crc32(file.read_bytes(), weights)
    assert ledger.settings["weights"] == weights
