"""However a turn is run, small weights draw what they draw plainly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ssd_core import Window, choice, generate, load
from ssd_core.models.base import ImageModel
from tests.graphs import stand_in
from tests.models.small import save_transformers
from tests.models.test_small import EACH
from tests.table import WARM
from tests.test_compiled import needs_compiler

HOW: dict[str, Any] = {
    "images_per_prompt": 10,
    "guidance": 3.0,
    "temperature": WARM,
}  # 20 rows: more than are multiplied as they are
POLICY = Window(0.6)


@pytest.fixture(params=EACH)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> ImageModel:
    return load(save_transformers(tmp_path), "cpu", weights=request.param)


def test_in_a_graph(model: ImageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generate(model, ["a red circle"], POLICY, step="plain", **HOW)
    monkeypatch.setattr(choice, "takes_graphs", lambda _: True)
    graphs = stand_in(monkeypatch)
    captured = generate(model, ["a red circle"], POLICY, step="graph", **HOW)
    [tape] = graphs.tapes
    assert captured.step == "graph"
    assert tape.replays > 0
    assert captured.tokens.equal(plain.tokens)


@needs_compiler
def test_compiled_by_torch(model: ImageModel) -> None:
    plain, compiled = (generate(model, ["a red circle"], POLICY, step=step, **HOW) for step in ("plain", "compiled"))
    assert compiled.step == "compiled"
    assert compiled.tokens.equal(plain.tokens)
