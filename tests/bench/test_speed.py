"""The command that measures speed: its rivals draw, its figures add up, and what it writes shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ssd_core
from bench.speed import __main__ as command
from bench.speed.measure import Entry, Seat, entries
from bench.speed.plot import plot, round_step
from bench.speed.rivals import Rival, Run, Theirs, read_theirs, rivals
from bench.speed.table import LARGEST, Row, markdown, row_of
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


@pytest.fixture(scope="module")
def janus(folder: Path, model: Any) -> Any:
    return read_theirs(str(folder), model.dtype, model.device)


def test_the_ways_of_transformers_hold_what_a_full_cache_holds(janus: Any, model: Any) -> None:
    prompts = ["a red circle"] * 2
    theirs = Theirs(janus, model, prompts, model.device)
    length = len(model.encode(prompts[0]))
    tight = full_bytes(model.geometry, [length] * 4, model.dtype)
    for draw in (theirs.generate_dynamic, theirs.concatenating):
        run = draw(0)
        assert run.kv_bytes == tight
        assert run.seconds > 0
    assert theirs.generate(0).kv_bytes >= tight


def test_what_a_step_must_read_grows_with_the_cache(folder: Path, janus: Any, model: Any) -> None:
    prompts = ["a red circle"] * 2
    theirs, known = Theirs(janus, model, prompts, model.device), rivals(str(folder), model, 0.6)
    full, window = (known[name].drawer(prompts)(0) for name in ("full", "window 60 %"))
    tokens = len(model.encode(prompts[0])) + model.geometry.tokens - 1
    a_token = full.kv_bytes / tokens
    assert full.kv_read == pytest.approx(full.kv_bytes - model.geometry.tokens / 2 * a_token, abs=a_token)
    for grown in (theirs.generate_dynamic(0), theirs.concatenating(0)):
        assert grown.kv_read == pytest.approx(full.kv_read, abs=a_token)
    static = theirs.generate(0)
    assert static.kv_read == static.kv_bytes
    assert 0.8 < window.kv_read / window.kv_bytes < 1  # which is soon full


def test_the_concatenating_loop_draws_what_generate_draws(janus: Any, model: Any) -> None:
    theirs = Theirs(janus, model, ["a red circle"], model.device)
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
    known = rivals(str(folder), model)
    halves = [name for name in known if name.endswith(", bfloat16")]
    assert len(halves) == 3 * able
    for name in halves[:2]:
        theirs, ours = (known[one].drawer(["a red circle"])(0) for one in (name, name.removesuffix(", bfloat16")))
        assert theirs.read < 0.6 * ours.read
        assert theirs.kv_bytes * 2 == ours.kv_bytes


def test_small_weights_are_those_of_all_of_ours(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.speed.rivals.computes_in_bfloat16", lambda _: True)
    small, plain = (ssd_core.load(folder, weights=weights) for weights in ("int8", "auto"))
    known = rivals(str(folder), small)
    assert known["full, bfloat16"].model().weights == "int8"
    theirs, ours = (known[name].drawer(["a red circle"])(0) for name in ("transformers generate", "full"))
    unrounded = rivals(str(folder), plain)["full"].drawer(["a red circle"])(0).read
    assert ours.read < theirs.read == unrounded - plain.decoder.rope.table.nbytes


def test_ours_tell_when_each_row_was_done(folder: Path, model: Any) -> None:
    run = rivals(str(folder), model)["full"].drawer(["a red circle"])(0)
    assert len(run.by_row) == model.geometry.rows
    assert run.by_row == sorted(run.by_row)
    assert 0 < run.by_row[0] < run.by_row[-1] <= run.seconds


def test_what_is_done_once_is_done_before_the_first_round(
    folder: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as compiling for a batch of this size, and trying a kernel."""
    drawn: list[tuple[int, bool]] = []

    def generate(_: object, prompts: list[str], *args: object, on_row: Any, **how: object) -> None:
        drawn.append((len(prompts), on_row(0, torch.zeros(1), None, None) is True))

    monkeypatch.setattr(ssd_core, "generate", generate)
    for name in ("full", "full, compiled"):
        rivals(str(folder), model)[name].drawer(["a red circle", "a ring"])
    assert drawn == [(1, True), (2, True)]


def test_the_figures_of_a_row() -> None:
    runs = [Run(2.0, 70, 60, 40, [0.4, 2.0]), Run(4.0, 70, 60, 40, [0.8, 4.0]), Run(3.0, 70, 60, 40, [0.6, 3.0])]
    row = row_of("some", 5, runs, tokens=10, columns=5, copy=1e3, peak=None)
    assert (row.tokens_per_second, row.seconds_per_image, row.step_milliseconds) == (5 * 10 / 3, 3 / 5, 300.0)
    assert row.moved_gigabytes_per_second == pytest.approx(1000 / 3 / 1e9)
    assert row.share_of_copy == pytest.approx(1 / 3)
    assert (row.kv_bytes, row.peak_bytes, row.spread) == (70, None, 2.0)
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
        (["--rivals", "full", "nobody"], "No rival is called nobody;"),
        (["--rivals", "full", "--budget", "0.5"], "None of full has a budget"),
        (["--batches", "largest", "--memory-cap", "1GB", "--device", "cpu", "--readme"], "give --batches a number"),
        (["--json", "/dev/null/rows.json"], "let --json name another"),
        (["--memory-cap", "8GB", "--device", "cpu"], "--memory-cap is for --batches largest"),
        (["--batches", "largest", "--device", "cpu"], "give a --memory-cap"),
    ],
)
def test_what_cannot_be_measured_is_told(
    arguments: list[str], sentence: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "copy_bandwidth", lambda _: 1e9)
    with pytest.raises(SystemExit, match=sentence):
        command.main(["--model", str(folder), *arguments])


def test_a_whole_name_is_that_rival_alone(folder: Path, model: Any) -> None:
    known = rivals(str(folder), model)
    assert command.chosen(known, ["full", "window"]) == ["full", "window 20 %"]
    assert len(command.chosen(known, ["ful", "window"])) > 3
    assert command.chosen(known, [""]) == list(known)


@pytest.mark.parametrize("text", ["0", "-1", "some", "1.5"])
@pytest.mark.parametrize("option", ["--batches", "--repeats"])
def test_a_number_is_1_at_least(option: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.options([option, text])
    assert f"a number, 1 at least, not {text}" in capsys.readouterr().err


def test_each_draws_the_largest_batch_that_it_plans_to_have_room_for(
    folder: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "copy_bandwidth", lambda _: 1e9)
    free = ssd_core.plan(model, images=40, prompt="a red circle").peak_bytes
    known = rivals(str(folder), model, budget=0.6)
    names, window = ["transformers generate", "full", "window 60 %"], ssd_core.Window(0.6)
    found = entries(known, names, LARGEST, False, Seat(model.device, lambda: model), free)
    most = ssd_core.largest_batch(model, window, free, "a red circle")
    assert [(entry.name, entry.batch, entry.largest) for entry in found] == [
        ("full", 40, True),
        ("window 60 %", most, True),
    ]
    assert most > 40
    assert "transformers generate plans no memory" in capsys.readouterr().out
    arguments = ["--model", str(folder), "--batches", "largest", "2", "--budget", "0.6", "--rivals", "window"]
    rows = tmp_path / "rows.json"
    command.main([*arguments, "--memory-cap", f"{free / 2**30}GiB", "--json", str(rows), "--device", "cpu"])
    assert [(row["batch"], row["largest"]) for row in json.loads(rows.read_text())["rows"]] == [
        (most, True),
        (2, False),
    ]


def test_a_longer_prompt_leaves_room_for_fewer(folder: Path, model: Any) -> None:
    free = ssd_core.plan(model, images=40, prompt="a red circle").peak_bytes
    known, seat = rivals(str(folder), model), Seat(model.device, lambda: model)
    some, mixed = (entries(known, ["full"], LARGEST, mixed, seat, free)[0].batch for mixed in (False, True))
    assert some > mixed > 0


def test_the_largest_batches_are_set_against_each_other() -> None:
    runs = [Run(2.0, 60, 60, 40)]
    rows = [
        row_of(name, batch, runs, tokens=10, columns=5, copy=1e3, peak=None, largest=largest)
        for name, batch, largest in (("full", 30, True), ("ssd", 75, True), ("full", 5, False), ("ssd", 5, False))
    ]
    rows += [Row("some", 0, largest=True)]
    written = markdown(rows)
    assert "| tokens/s | batch 5 | largest |" in written
    assert "| ssd | 25 | 75: 375 |" in written
    assert "| some |  | 0: out of memory |" in written
    assert "| 75, largest | ssd | 375 | 2.50 | 37.5 | 0.0267 |" in written
    assert plot(rows, 5) == plot([row for row in rows if not row.largest], 5)
    with pytest.raises(ssd_core.UserError, match="ask for a number"):
        plot(rows[:2], 5)


class Crowded:
    """A rival that has memory for so many pictures, and remembers how many it was asked for."""

    def __init__(self, room: int) -> None:
        self.room, self.asked = room, list[int]()
        self.rival = Rival(lambda: nn.Linear(1, 1), self.drawer, lambda prompt, free: free)

    def drawer(self, prompts: Any) -> Any:
        self.asked.append(len(prompts))

        def draw(seed: int) -> Run:
            if len(prompts) > self.room:
                raise ssd_core.OutOfMemoryError("Memory ran out.")
            return Run(1.0, 60, 60, 40)

        return draw


def test_a_largest_batch_shrinks_until_there_is_memory() -> None:
    crowded = Crowded(29)
    seat = Seat(torch.device("cpu"), crowded.rival.model)
    [entry] = entries({"full": crowded.rival}, ["full"], LARGEST, False, seat, free=33)
    for seed in range(2):
        entry.run(seed, seat)
    assert crowded.asked == [33, 31, 30, 29]
    assert (entry.batch, len(entry.runs), entry.largest) == (29, 2, True)
    crowded.room = 27
    entry.run(2, seat)
    assert (entry.batch, len(entry.runs)) == (27, 1)
    for room in (0, 2):
        fixed = Entry("full", Crowded(room).rival, 3)
        fixed.run(0, seat)
        assert (fixed.batch, fixed.runs) == (3, [])
    [entry] = entries({"full": Crowded(0).rival}, ["full"], LARGEST, False, seat, free=5)
    entry.run(0, seat)
    assert (entry.batch, entry.runs) == (0, [])


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """One that need not be there."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    return torch.device("cuda")


def test_weights_without_room_are_a_result(gpu: torch.device) -> None:
    def model() -> Any:
        raise ssd_core.OutOfMemoryError("Memory ran out.")

    def counted() -> Any:
        read.append(1)
        return model()

    read, seat = list[int](), Seat(gpu, nn.Module)
    entry = Entry("some", replace(Crowded(9).rival, model=counted), 3)
    for seed in range(3):
        entry.run(seed, seat)
    assert entry.runs == []
    assert len(read) == 1  # there would be no more room the next time


def test_transformers_reads_folders(folder: Path, model: Any) -> None:
    with pytest.raises(ssd_core.UserError, match="is a file; leave transformers' ways out"):
        read_theirs(str(folder / "config.json"), model.dtype, model.device)


def test_columns_are_those_in_which_something_stands() -> None:
    run = [Run(2.0, 60, 60, 40)]
    assert "peak MB" not in markdown([row_of("full", 5, run, 10, 5, 1e3, peak=None)])
    some = [row_of("full", 5, run, 10, 5, 1e3, peak=peak) for peak in (None, 10**6)]
    assert "| peak MB |" in markdown(some)


def test_one_model_at_a_time_lies_on_a_gpu(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float16 weights for those on the device, as there may be no GPU."""
    moved: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr("bench.speed.measure.lies_on", lambda part, _: part.weight.dtype == torch.float16)
    monkeypatch.setattr("bench.speed.measure.move", lambda parts, to: moved.extend((part, to.type) for part in parts))
    one, other = (nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).half()) for _ in range(2))
    makes = [lambda: one, lambda: other]
    seat = Seat(gpu, makes[0])
    assert moved == []
    seat.give(makes[1])
    assert moved == [(one[1], "cpu")]
    seat.give(makes[0])
    assert moved[1:] == [(other[1], "cpu"), (one[1], "cuda")]


def test_a_cap_is_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.options(["--memory-cap", "8GB"]).memory_cap == 8 * 10**9
    assert command.options(["--memory-cap", "1.5gib"]).memory_cap == 3 * 2**29
    with pytest.raises(SystemExit):
        command.options(["--memory-cap", "infGB"])
    assert "it is a size such as 8GB, 7.5GiB or 512MiB, not 'infGB'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("least", "step"), [(5.507, 6.0), (5.4, 5.5), (5.5, 5.5), (11.2, 15.0), (100.0, 100.0), (0.031, 0.035)]
)
def test_an_axis_is_cut_at_round_numbers(least: float, step: float) -> None:
    assert round_step(least) == pytest.approx(step)
