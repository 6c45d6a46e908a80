"""The command that measures speed: its rivals draw, its figures add up, and what it writes shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ssd_core
from bench.speed import __main__ as command
from bench.speed.plot import plot
from bench.speed.rivals import Run, Theirs, rivals
from bench.speed.table import Row, markdown, row_of
from ssd_core.memory import full_bytes
from tests.models.small import SIZES, save_transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what transformers' generate wants to know beside the weights."""
    made = save_transformers(tmp_path_factory.mktemp("janus"), SIZES["plain"])
    model = ssd_core.load(made)
    ids = model.encode("a red circle")
    known = {
        "bos_token_id": ids[0],
        "pad_token_id": model.unconditional(ids)[1],
        "generation_kwargs": {"boi_token_id": ids[-1]},
    }
    (made / "generation_config.json").write_text(json.dumps(known))
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> ssd_core.models.base.ImageModel:
    return ssd_core.load(folder)


def test_the_ways_of_transformers_hold_what_a_full_cache_holds(folder: Path, model: Any) -> None:
    prompts = ["a red circle"] * 2
    theirs = Theirs(str(folder), model, prompts)
    length = len(model.encode(prompts[0]))
    tight = full_bytes(model.geometry, [length] * 4, model.dtype)
    for draw in (theirs.generate_dynamic, theirs.concatenating):
        run = draw(0)
        assert run.kv_bytes == tight
        assert run.seconds > 0
    assert theirs.generate(0).kv_bytes >= tight


def test_the_concatenating_loop_draws_what_generate_draws(folder: Path, model: Any) -> None:
    theirs = Theirs(str(folder), model, ["a red circle"])
    drawn: list[list[int]] = []
    inner = theirs.janus.model.generation_embeddings
    inner.register_forward_pre_hook(lambda _, given: drawn[-1].append(int(given[0].flatten()[0])))
    for draw in (theirs.generate, theirs.generate_dynamic, theirs.concatenating):
        drawn.append([])
        draw(3)
    assert len(drawn[0]) == model.geometry.tokens
    assert drawn[0] == drawn[1] == drawn[2]


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_is_a_rival_where_the_processor_multiplies_in_it(
    able: bool, folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.speed.rivals.computes_in_bfloat16", lambda _: able)
    known = rivals(str(folder), model, ["a red circle"])
    halves = [name for name in known if name.endswith(", bfloat16")]
    assert len(halves) == 5 * able
    for name in halves[:2]:
        theirs, ours = known[name]()(0), known[name.removesuffix(", bfloat16")]()(0)
        assert theirs.read < 0.6 * ours.read
        assert theirs.kv_bytes * 2 == ours.kv_bytes


def test_ours_tell_when_each_row_was_done(folder: Path, model: Any) -> None:
    run = rivals(str(folder), model, ["a red circle"])["full"]()(0)
    assert len(run.by_row) == model.geometry.rows
    assert run.by_row == sorted(run.by_row)
    assert 0 < run.by_row[0] < run.by_row[-1] <= run.seconds


def test_the_figures_of_a_row() -> None:
    runs = [Run(2.0, 60, 40, [0.4, 2.0]), Run(4.0, 60, 40, [0.8, 4.0]), Run(3.0, 60, 40, [0.6, 3.0])]
    row = row_of("some", 5, runs, tokens=10, columns=5, copy=1e3, peak=None)
    assert (row.tokens_per_second, row.seconds_per_image, row.step_milliseconds) == (5 * 10 / 3, 3 / 5, 300.0)
    assert row.moved_gigabytes_per_second == pytest.approx(1000 / 3 / 1e9)
    assert row.share_of_copy == pytest.approx(1 / 3)
    assert (row.kv_bytes, row.peak_bytes, row.spread) == (60, None, 2.0)
    assert row.by_row == pytest.approx([120.0, 480.0])
    assert row_of("some", 5, [], 10, 5, 1e3, None) == Row("some", 5)


def test_the_command_writes_a_table_a_plot_and_its_rows(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, shown = tmp_path / "README.md", tmp_path / "speed.svg"
    readme.write_text("before\n<!-- speed -->\n<!-- /speed -->\nafter\n")
    monkeypatch.setattr(command, "README", readme)
    monkeypatch.setattr(command, "PLOT", shown)
    monkeypatch.setattr(command, "RESULTS", tmp_path / "speed.json")
    monkeypatch.setattr("bench.speed.rivals.computes_in_bfloat16", lambda _: False)
    monkeypatch.setattr(command, "copy_bandwidth", lambda _: 1e9)
    arguments = ["--model", str(folder), "--batches", "1", "3", "--repeats", "1", "--readme", "--budget", "0.95"]
    command.main([*arguments, "--rivals", "generate", "window"])
    found = json.loads((tmp_path / "speed.json").read_text())
    rows = [Row(**row) for row in found["rows"]]
    names = ["transformers generate", "transformers generate, dynamic cache", "window 95 %"]
    assert [(row.batch, row.rival) for row in rows] == [(batch, name) for batch in (1, 3) for name in names]
    assert found["machine"]["torch"] == torch.__version__
    assert markdown(rows) in readme.read_text()
    assert shown.read_text() == plot(rows, model_columns(folder))
    ratio = (rows[2].tokens_per_second or 0) / (rows[0].tokens_per_second or 1)
    assert f"{rows[2].tokens_per_second:.0f} ({ratio:.2f}x)" in readme.read_text()


def model_columns(folder: Path) -> int:
    return ssd_core.load(folder).geometry.columns


def test_a_rival_without_enough_memory_is_a_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ssd_core.OutOfMemoryError("Memory ran out.")

    monkeypatch.setattr(command, "copy_bandwidth", lambda _: 1e9)
    monkeypatch.setattr(ssd_core, "generate", fail)
    command.main(
        ["--model", str(folder), "--batches", "1", "--json", str(tmp_path / "rows.json"), "--rivals", "window"]
    )
    [row] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert Row(**row) == Row("window 20 %", 1)
    assert "out of memory" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rivals", "nobody"], "No rival is called nobody"),
        (["--memory-cap", "8GB", "--device", "cpu"], "--memory-cap is for GPUs"),
    ],
)
def test_what_cannot_be_measured_is_told(
    arguments: list[str], sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "copy_bandwidth", lambda _: 1e9)
    with pytest.raises(SystemExit, match=sentence):
        command.main(["--model", str(folder), *arguments])


def test_a_size_as_it_stands_on_a_card() -> None:
    assert command.size("8GB") == 8 * 2**30
    assert command.size("1.5gb") == 3 * 2**29
    with pytest.raises(SystemExit):
        command.options(["--memory-cap", "8"])
