"""The command that measures small weights: what it draws, what it compares, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ssd_core
from bench import weights as command
from bench.quality import batches
from bench.quality.batches import Batch
from bench.weights import Drawn, Row, row_of
from ssd_core.evaluate.scenes import TASKS
from tests.bench.conftest import tokens_of
from tests.tiny import tiny


def test_the_figures_of_a_row() -> None:
    tasks = [task for task in TASKS[:2] for _ in range(2)]
    model = tiny()
    model.decoder.rope.reserve(50, model.device, model.dtype)
    plain, own = Drawn(tasks, [1, 1, 1, 0], 2.0), Drawn(tasks, [1, 0, 1, 0], 4.0)
    row = row_of("int8", model, own, plain, torch.tensor([0.1, 0.3]))
    assert row.tokens_per_second == 4 * model.geometry.tokens / 4.0
    assert (row.shapes_eval, row.difference) == (0.5, -0.25)
    assert row.interval[0] < row.difference < row.interval[1]
    assert row.kl == pytest.approx(0.2)
    assert row.largest_kl == pytest.approx(0.3)
    assert row.decoder_bytes == sum(weight.nbytes for weight in model.decoder.parameters())
    assert row.weights_bytes == ssd_core.plan(model).weights_bytes


def test_every_precision_draws_and_is_fed_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = tiny(), tiny(seed=1)
    document = tmp_path / "weights.md"
    document.write_text("<!-- weights -->\n<!-- /weights -->\n")
    asked: list[tuple[bool, list[str], int]] = []
    generate = ssd_core.generate

    def drawing(model: Any, prompts: Any, **how: Any) -> Any:
        asked.append((model is other, prompts, how["seed"]))
        assert how["guidance"] == 3.0
        return generate(model, prompts, **how)

    monkeypatch.setattr(ssd_core, "load", lambda *_, weights="auto": plain if weights == "auto" else other)
    monkeypatch.setattr(ssd_core, "generate", drawing)
    monkeypatch.setattr(command, "possible_weights", lambda *_: ["auto", "int8"])
    monkeypatch.setattr(command, "OUT", tmp_path / "weights.json")
    monkeypatch.setattr(command, "DOCUMENT", document)
    monkeypatch.setattr(batches, "BLOCK", 12)
    monkeypatch.setattr(Batch, "tokens", property(tokens_of))
    command.main(["--prompts", "6", "--forced", "2", "--batch", "4", "--guidance", "3"])
    found = json.loads((tmp_path / "weights.json").read_text())
    rows = [Row(**{**row, "interval": tuple(row["interval"])}) for row in found["rows"]]
    assert [row.weights for row in rows] == ["auto", "auto, bfloat16", "int8"]
    assert [row.kl > 0 for row in rows] == [False, False, True]
    assert [is_other for is_other, *_ in asked[:3]] == [False, False, True]
    assert all(asked[at][1:] == asked[at - at % 3][1:] for at in range(len(asked)))
    assert found["settings"]["prompts"] == sum(len(prompts) for _, prompts, _ in asked) // 3 >= 6
    for row in rows:
        assert "| " + " | ".join(row.cells()) + " |" in document.read_text()
