from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ssd_core
from bench.quality import __main__ as command
from bench.quality import batches
from bench.quality.batches import Batch
from bench.quality.cells import Cells
from bench.quality.ledger import Ledger
from ssd_core.models.base import ImageModel
from ssd_core.policies import ssd
from tests.tiny import random_map, tiny

PROMPTS = 12  # that batches are made of here


def tokens_of(batch: Batch) -> torch.Tensor:
    """Tokens for scenes that a grid of 4 x 4 has no room for."""
    return torch.randint(20, (len(batch.scenes), 16), generator=torch.Generator().manual_seed(batch.seed))


class Bench:
    """The command with a tiny model in a folder of its own. It remembers what it measured and drew."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "quality"
        self.measured: list[tuple[str, str, float, int]] = []
        self.drawn: list[str] = []
        self.before: Callable[[], object] = lambda: None  # each measurement

    def run(self, *arguments: object) -> list[dict[str, Any]]:
        """The records that the command leaves."""
        fixed = ("--out", self.out, "--batch", 4)
        self.measured.clear()
        self.drawn.clear()
        command.main([str(argument) for argument in (*arguments, *fixed)])
        return self.records

    @property
    def records(self) -> list[dict[str, Any]]:
        return Ledger(self.out.with_suffix(".jsonl")).records


@pytest.fixture
def model() -> ImageModel:
    return tiny()


@pytest.fixture
def bench(model: ImageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    weights = tmp_path / "weights"
    weights.write_bytes(b"some")
    heads = random_map(model.geometry)
    monkeypatch.setattr(ssd_core, "load", lambda *_, **__: model, raising=False)
    monkeypatch.setattr(command, "Checkpoint", lambda _: SimpleNamespace(files=(weights,)))
    monkeypatch.setattr(command, "default_map", lambda *_: heads)
    monkeypatch.setattr(ssd, "default_map", lambda *_: heads)
    monkeypatch.setattr(batches, "BLOCK", PROMPTS)
    monkeypatch.setattr(Batch, "tokens", property(tokens_of))
    bench = Bench(tmp_path)
    measure, generate = Cells.measure, ssd_core.generate

    def watched(cells: Cells, cell: str, way: Any, batch: Batch) -> dict[str, Any]:
        bench.before()
        bench.measured.append((cell, way.method, way.budget, batch.seed))
        return measure(cells, cell, way, batch)

    def drawing(model: ImageModel, prompts: Any, policy: Any, **how: Any) -> Any:
        bench.drawn.append(type(policy).__name__)
        return generate(model, prompts, policy, **how)

    monkeypatch.setattr(Cells, "measure", watched)
    monkeypatch.setattr(ssd_core, "generate", drawing, raising=False)
    return bench
