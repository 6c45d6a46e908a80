"""The command that measures quality: what it keeps, what it measures again, and what it leaves alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.quality import __main__ as command
from bench.quality import ways
from bench.quality.batches import Batch, batches
from bench.quality.cells import Cells
from bench.quality.jobs import Job, cells_of, load, measure, measure_beside
from bench.quality.ledger import Ledger
from bench.quality.ways import FULL, Variant, Way, variant_of
from ssd_core.errors import OutOfMemoryError
from ssd_core.evaluate.fidelity import forced_logits, surprise
from ssd_core.evaluate.shapes import held_out_prompts, held_out_scenes
from ssd_core.heads import HeadMap
from ssd_core.models.base import ImageModel
from ssd_core.policies import METHODS, SSD, Full
from ssd_core.sampling import Sampling
from tests.bench.conftest import PROMPTS, Bench
from tests.models.small import SIZES, save_transformers

TWO = ("--methods", "window", "streaming", "--budgets", 0.95, "--forced", 0)  # prompts are longer than pictures here


def test_every_method_is_measured_at_each_budget_and_the_full_cache_once() -> None:
    found = [(way.method, way.budget) for way in ways.ways()]
    assert found[0] == ("full", 1.0)
    assert sorted(found[1:]) == sorted(
        (name, budget) for name in METHODS if name != "full" for budget in (0.5, 0.2, 0.125, 0.08, 0.05)
    )
    assert "literal=True" in Way("ssd --literal", 0.2).about
    assert "budget=0.125" in Way("ssd", 0.125).about


def test_a_name_is_a_method_with_options_as_on_the_command_line(tmp_path: Path) -> None:
    assert variant_of("ssd --refresh 48 --no-pin-prompt --kv-dtype int8") == Variant(
        "ssd", {"refresh": 48, "pin_prompt": False}, "int8"
    )
    assert Way("ssd --half-life 2", 0.2).policy() == SSD(0.2, half_life=2.0)
    assert Way("ssd --literal --recent 4", 0.2).about.startswith("literal sets recent")
    head_map = HeadMap(torch.zeros(4, 4), {"source": "nowhere"})
    head_map.save(tmp_path / "map.safetensors")
    assert "nowhere" in Way(f"ssd --head-map {tmp_path}/map.safetensors", 0.2).about


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("sdd", "There is no method 'sdd'"),
        ("window --tau 0.2", "window takes no --tau 0.2"),
        ("ssd --budget 0.2", "ssd takes no --budget 0.2"),
        ("ssd --kv-dtype int3", "'ssd --kv-dtype int3' cannot be read"),
        ("ssd --refresh often", "--refresh"),
        ("ssd --tau", "cannot be read"),
    ],
)
def test_a_name_that_cannot_be_read_is_told(name: str, sentence: str, bench: Bench, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        bench.run("--methods", name)
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_processes_side_by_side_measure_the_same(tmp_path: Path) -> None:
    folder = save_transformers(tmp_path / "janus", SIZES["plain"])
    given = command.options(["--model", str(folder), "--out", str(tmp_path / "results"), "--guidance", "1"])
    model = load(given)
    scenes = held_out_scenes(2)
    some = [Batch(0, (scenes[0],)), Batch(1, (scenes[1],))]
    jobs = [Job(way, batch, ("drawn",)) for batch in some for way in (FULL, Way("streaming", 0.99))]
    ours = list(measure(jobs, cells_of(model, given, {})))
    theirs = list(measure_beside(jobs, 2, given, {}))
    timeless = [{name: value for name, value in one.items() if name != "seconds"} for one in ours + theirs]
    assert timeless[:4] == timeless[4:]
    assert [record["seed"] for record in theirs] == [0, 0, 1, 1]


def test_the_first_batches_are_the_same_however_many_prompts_are_asked_for(model: ImageModel) -> None:
    whole, some = batches(model, 700, 16), batches(model, 40, 16)
    assert some == whole[: len(some)]
    assert 40 <= sum(len(batch.scenes) for batch in some) < 40 + 16
    prompts = [prompt for batch in whole for prompt in batch.prompts]
    assert sorted(prompts[:600]) == sorted(held_out_prompts(600))
    seeds = [seed for batch in whole for seed in range(batch.seed, batch.seed + len(batch.prompts))]
    assert seeds == list(range(len(prompts)))
    assert all(len({len(model.encode(prompt)) for prompt in batch.prompts}) == 1 for batch in whole)
    assert max(len(batch.scenes) for batch in whole) == 16


def test_what_was_measured_is_not_measured_again(bench: Bench) -> None:
    first = bench.run(*TWO, "--prompts", 4, "--forced", 4)
    assert len(bench.measured) == len(first) == 2 * 3 * len({record["seed"] for record in first})
    assert bench.run(*TWO, "--prompts", 4, "--forced", 4) == first
    assert not bench.measured
    more = bench.run(*TWO, "--prompts", PROMPTS, "--forced", 4)
    assert more[: len(first)] == first
    assert {seed for *_, seed in bench.measured}.isdisjoint(record["seed"] for record in first)
    bench.run("--methods", "ssd --refresh 1", "--budgets", 0.95, "--prompts", PROMPTS, "--forced", 4)
    assert {method for _, method, *_ in bench.measured} == {"ssd --refresh 1"}
    assert set(bench.drawn) == {"SSD"}  # the full cache's tokens are in files


def test_all_ways_of_a_batch_come_before_the_next_batch(bench: Bench) -> None:
    bench.run(*TWO, "--prompts", PROMPTS, "--forced", 0)
    seeds = [seed for *_, seed in bench.measured]
    assert seeds == sorted(seeds)
    assert len(seeds) == 3 * len(set(seeds))


def test_after_an_interruption_it_goes_on(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        if len(bench.measured) == 2:
            raise KeyboardInterrupt

    bench.before = interrupt
    done = bench.run(*TWO, "--prompts", 4)
    assert "Stopped" in capsys.readouterr().out
    assert len(done) == 2
    with bench.out.with_suffix(".jsonl").open("a") as file:
        file.write('{"cell":"drawn","meth')  # as if the machine had lost its power
    bench.before = lambda: None
    assert bench.run(*TWO, "--prompts", 4)[:2] == done
    assert len(bench.measured) == len(bench.records) - 2 > 0
    assert bench.out.with_suffix(".jsonl").read_text().count("meth") == len(bench.records)


def test_it_stops_when_the_time_is_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def wait() -> None:
        nonlocal now
        now += 60

    bench.before = wait
    assert len(bench.run(*TWO, "--prompts", PROMPTS, "--minutes", 2.5)) == 3
    assert "2.5 minutes are over" in capsys.readouterr().out
    bench.run("--minutes", 0)
    assert not bench.measured


def test_a_changed_policy_is_measured_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ("--methods", "ssd --refresh 1", "window", "--budgets", 0.95, "--prompts", 4, "--forced", 0)
    before = bench.run(*chosen)
    read = ways.variant_of
    changed = Variant("ssd", {"refresh": 2}, "auto")
    monkeypatch.setattr(ways, "variant_of", lambda name: changed if name == "ssd --refresh 1" else read(name))
    after = bench.run(*chosen)
    assert {method for _, method, *_ in bench.measured} == {"ssd --refresh 1"}
    assert len(after) == len(before)
    assert "cells are of policies or prompts that have changed" in capsys.readouterr().out
    refreshes = {record["policy"] for record in after if record["method"] == "ssd --refresh 1"}
    assert refreshes == {Way("ssd --refresh 1", 0.95).about}
    assert "refresh=2" in refreshes.pop()


def test_changed_prompts_are_measured_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.run(*TWO, "--prompts", 4)
    monkeypatch.setattr(Batch, "captions", 1)
    assert len(bench.run(*TWO, "--prompts", 4)) == len(bench.measured) == len(before)


@pytest.mark.parametrize("changed", ["weights", "head_map", "guidance", "batch", "dtype"])
def test_other_settings_are_refused(bench: Bench, changed: str) -> None:
    bench.run(*TWO, "--prompts", 4)
    path = bench.out.with_suffix(".jsonl")
    settings, *lines = path.read_text().splitlines(keepends=True)
    other = json.loads(settings)
    other["settings"][changed] = "other"
    path.write_text("".join([json.dumps(other) + "\n", *lines]))
    with pytest.raises(SystemExit, match=f"drawn with another {changed}; give another --out"):
        bench.run(*TWO, "--prompts", 4)
    assert len(bench.records) == len(lines)


@pytest.mark.parametrize("content", ['{"rows": []}\n', "no results\n"])
def test_other_files_are_refused(bench: Bench, content: str) -> None:
    bench.out.with_suffix(".jsonl").write_text(content)
    with pytest.raises(SystemExit, match="something else than results"):
        bench.run(*TWO)
    assert bench.out.with_suffix(".jsonl").read_text() == content


def test_without_results_there_is_nothing_to_show(bench: Bench) -> None:
    with pytest.raises(SystemExit, match="no results"):
        bench.run("--minutes", 0)
    assert not bench.out.with_suffix(".jsonl").exists()


def test_what_a_method_refuses_is_recorded_and_shown(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- quality -->\nstale words\n<!-- /quality -->\nafter\n")
    monkeypatch.setattr(command, "README", readme)
    monkeypatch.setattr(command, "PLOT", tmp_path / "plot.svg")
    found = bench.run("--methods", "window", "--budgets", 0.95, 0.05, "--prompts", 4, "--forced", 4, "--readme")
    refused = [record for record in found if "refused" in record]
    assert {(record["cell"], record["budget"]) for record in refused} == {("drawn", 0.05), ("forced", 0.05)}
    assert all("pinned" in record["refused"] for record in refused)
    sentence, count = refused[0]["refused"], sum(record["prompts"] for record in refused if record["cell"] == "drawn")
    assert count == sum(len(record["right"]) for record in found if record["method"] == "full" and "right" in record)
    assert f"window at 5 %, {count} of {count} prompts: {sentence}" in capsys.readouterr().out
    text = readme.read_text()
    assert text.startswith("before\n<!-- quality -->\n")
    assert text.endswith("<!-- /quality -->\nafter\n")
    assert "stale words" not in text
    header = text.splitlines().index("| method | 95 % | 5 % |")
    row = text.splitlines()[header + 2]
    assert row.startswith("| window | ")
    assert row.count("refused") == 1
    assert sentence in text
    assert (tmp_path / "plot.svg").read_text().count("<circle") == 2  # one point and one name
    [row] = [row for row in json.loads(bench.out.with_suffix(".json").read_text())["rows"] if row["budget"] == 0.05]
    assert (row["prompts"], row["refused"], row["refusal"], row["shapes_eval"]) == (0, count, sentence, None)
    bench.run("--methods", "window", "--budgets", 0.95, 0.05, "--prompts", 4, "--forced", 4)
    assert not bench.measured  # a refusal is a result


def test_a_document_may_show_all_that_was_measured(bench: Bench, tmp_path: Path) -> None:
    document = tmp_path / "some.md"
    document.write_text("before\n<!-- quality -->\n<!-- /quality -->\nafter\n")
    bench.run("--methods", "streaming", "--budgets", 0.99, "--prompts", 4, "--forced", 4, "--table", document)
    *_, header, _, full, streaming, _, _, after = document.read_text().splitlines()
    assert (header.split(" | ")[:3], after) == (["| method", "budget", "prompts"], "after")
    assert (full[:16], streaming[:20]) == ("| full | 100 % |", "| streaming | 99 % |")


def test_memory_that_runs_out_is_no_refusal(bench: Bench) -> None:
    def fail() -> None:
        raise OutOfMemoryError("Memory ran out.")

    bench.run(*TWO, "--prompts", 4)
    bench.before = fail
    with pytest.raises(SystemExit, match="Memory ran out"):
        bench.run("--methods", "ssd", "--budgets", 0.95, "--prompts", 4, "--forced", 0)
    assert not [record for record in bench.records if record["method"] == "ssd"]


def test_what_is_recorded_of_a_cell(bench: Bench, model: ImageModel) -> None:
    found = bench.run("--methods", "streaming", "--budgets", 0.99, 0.1, "--prompts", 4, "--forced", 4)
    of = {(record["cell"], record["method"], record["budget"]): record for record in found if record["seed"] == 0}
    full, forced = of["drawn", "full", 1.0], of["forced", "full", 1.0]
    count = len(full["right"])
    assert full["agreement"] == [1] * count
    assert (forced["kl"], forced["squared_error"], forced["ssim"]) == ([0] * count, [0] * count, [1] * count)
    narrow, forced_narrow = of["drawn", "streaming", 0.1], of["forced", "streaming", 0.1]
    assert 0 < narrow["kv_bytes"] < 0.15 * narrow["kv_bytes_full"] == 0.15 * full["kv_bytes"]
    assert 0 < narrow["bookkeeping_bytes"] < narrow["peak_bytes"] < full["peak_bytes"]
    assert narrow["seconds"] > 0
    assert min(forced_narrow["kl"]) > 0.01
    assert min(forced_narrow["squared_error"]) > 0
    assert max(forced_narrow["ssim"]) < 1
    batch = batches(model, 4, 4)[0]
    rows = [model.encode(prompt) for prompt in batch.prompts]
    right = surprise(forced_logits(model, Full(), rows, batch.tokens), batch.tokens)
    assert forced["cross_entropy"] == pytest.approx(right.tolist(), rel=1e-4)
    assert forced_narrow["cross_entropy"] != forced["cross_entropy"]


def test_the_full_cache_s_tokens_are_those_of_the_same_settings(
    bench: Bench, model: ImageModel, tmp_path: Path
) -> None:
    [batch, *_] = batches(model, 4, 4)

    def reference(guidance: float, settings: dict[str, Any]) -> torch.Tensor:
        return Cells(model, Sampling(guidance), tmp_path / "tokens", settings).reference(batch).tokens

    first = reference(2.0, {"guidance": 2.0})
    assert torch.equal(reference(9.0, {"guidance": 2.0}), first)  # from the file
    assert not torch.equal(reference(9.0, {"guidance": 9.0}), first)
    assert bench.drawn == ["Full"] * 2


def test_a_ledger_keeps_what_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    record = {"cell": "drawn", "method": "full", "budget": 1.0, "policy": "Full()", "seed": 0, "captions": 1}
    Ledger(path, {"batch": 4}).add(record)
    again = Ledger(path, {"batch": 4})
    assert (again.records, again.settings) == ([record], {"batch": 4})
    assert again.drop(lambda record: record["seed"] == 0) == 1
    assert (again.records, again.done, Ledger(path).records) == ([], set(), [])


def test_the_full_cache_is_always_there(bench: Bench) -> None:
    bench.run("--methods", "streaming", "--budgets", 0.5, "--prompts", 4, "--forced", 0)
    assert bench.measured[0][:3] == ("drawn", FULL.method, 1.0)
