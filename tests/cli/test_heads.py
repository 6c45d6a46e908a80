from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_core import loop
from ssd_core.evaluate.captions import parse
from ssd_core.heads import HeadMap, draw, measure
from ssd_core.heads.draw_columns import draw_columns
from ssd_core.heads.draw_reach import draw_reach
from ssd_core.heads.draw_regions import draw_regions
from ssd_core.heads.prompts import default_prompts
from ssd_core.heads.regions import RegionMeter
from tests.cli.terminal import Terminal
from tests.tiny import TinyModel

HEADS = ("heads", "--prompts", "prompts.txt", "--save", "map.safetensors")


@pytest.fixture
def prompts(terminal: Terminal) -> list[str]:
    (terminal.folder / "prompts.txt").write_text("ab\n\n  ü \n", encoding="utf-8")
    return ["ab", "ü"]


def saved(terminal: Terminal, *args: object) -> HeadMap:
    terminal.output(*HEADS, *args)
    return HeadMap.load("map.safetensors")


def test_the_saved_map_is_the_measured_one(terminal: Terminal, prompts: list[str]) -> None:
    found, expected = saved(terminal), measure(terminal.model, prompts)
    assert torch.equal(found.share, expected.share)
    assert found.about == expected.about


@pytest.mark.parametrize("option", [("--images", 2), ("--seed", 7)])
def test_images_and_seed_change_the_map(terminal: Terminal, prompts: list[str], option: tuple[object, ...]) -> None:
    assert not torch.equal(saved(terminal).share, saved(terminal, *option).share)


def test_a_saved_map_serves_generate(terminal: Terminal, prompts: list[str]) -> None:
    saved(terminal)
    terminal.output("generate", "ab", "--budget", 14, "--head-map", "map.safetensors")


def test_show_prints_a_map_and_measures_nothing(terminal: Terminal) -> None:
    HeadMap(torch.tensor([[0.0, 0.25, 0.5], [1.0, 0.3, 0.31]])).save("six.safetensors")
    assert terminal.output("heads", "--show", "six.safetensors").splitlines() == [
        "  0   0 25 50",
        "  1  99 30 31",
        "50% of 6 heads are semantic (above 0.3).",
    ]
    assert "33% of 6 heads" in terminal.output("heads", "--show", "six.safetensors", "--tau", 0.4)
    assert not terminal.loaded


def test_draw_writes_the_picture(terminal: Terminal) -> None:
    for tau in (0.3, 0.8):
        terminal.output("heads", "--show", "heads.safetensors", "--draw", "map.png", "--tau", tau)
        expected = draw(HeadMap.load("heads.safetensors"), tau)
        assert np.array_equal(np.asarray(Image.open("map.png")), np.asarray(expected))


@pytest.mark.parametrize("tau", [0.2, 0.7])
def test_one_measuring_draws_and_reports_all(
    terminal: Terminal, prompts: list[str], monkeypatch: pytest.MonkeyPatch, tau: float
) -> None:
    drawn = count_drawings(monkeypatch)
    names = ("regions", "columns", "reach")
    options = [part for name in names for part in (f"--{name}", f"{name}.png")]
    found = saved(terminal, *options, "--report", "report.json", "--draw", "map.png", "--tau", tau, "--seed", 5)
    assert drawn == [[terminal.model.encode(prompt)] for prompt in prompts]
    meter = RegionMeter(terminal.model.geometry, "cpu")
    head_map = measure(terminal.model, prompts, seed=5, meters=[meter])
    assert torch.equal(found.share, head_map.share)
    regions = meter.regions()
    expected = {
        "regions": draw_regions(regions, head_map, tau),
        "columns": draw_columns(regions, "tiny"),
        "reach": draw_reach(regions, "tiny"),
        "map": draw(head_map, tau),
    }
    for name, picture in expected.items():
        assert np.array_equal(np.asarray(Image.open(f"{name}.png")), np.asarray(picture)), name
    report = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert report["prompts"] == prompts
    assert report["settings"] == {"images": 1, "seed": 5, "neighbourhood": 6}
    assert torch.equal(torch.tensor(report["share"]), head_map.share)
    assert {name: report[name] for name in regions.as_dict()} == regions.as_dict()


def count_drawings(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """What `generate` is asked for from now on, as it grows."""
    plain = loop.generate
    asked: list[list[list[int]]] = []

    def generate(model: TinyModel, prompts: list[list[int]], *args: Any, **settings: Any) -> Any:
        asked.append(prompts)
        return plain(model, prompts, *args, **settings)

    monkeypatch.setattr(loop, "generate", generate)
    return asked


@pytest.mark.parametrize("option", ["--regions", "--columns", "--reach"])
def test_each_picture_can_be_had_alone(terminal: Terminal, prompts: list[str], option: str) -> None:
    before = {path.name for path in Path().iterdir()}
    terminal.output("heads", "--prompts", "prompts.txt", option, "one.png")
    assert {path.name for path in Path().iterdir()} - before == {"one.png"}


def test_a_neighbourhood_given_is_measured_with(terminal: Terminal, prompts: list[str]) -> None:
    found = saved(terminal, "--neighbourhood", 3)
    assert torch.equal(found.share, measure(terminal.model, prompts, 3).share)
    assert found.about["neighbourhood"] == "3"
    assert "give 1 to 14" in terminal.refusal("heads", "--prompts", "prompts.txt", "--neighbourhood", 0)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--show", "heads.safetensors", "--seed", 3), "--seed"),
        (("--show", "heads.safetensors", "--prompts", "prompts.txt"), "--prompts"),
        (("--show", "heads.safetensors", "--save", "other"), "--save"),
        (("--show", "absent"), "absent"),
        (("--prompts", "absent.txt"), "absent.txt"),
        (("--prompts", "empty.txt"), "empty.txt"),
        (("--prompts", "heads.safetensors"), "heads.safetensors"),
        (("--tau", 2, "--prompts", "prompts.txt"), "tau"),
        (("--save", "heads.safetensors/map"), "heads.safetensors"),
        (("--save", "."), "folder"),
        (("--prompts", "prompts.txt", "--draw", "map"), ".png"),
        (("--show", "heads.safetensors", "--draw", "heads.safetensors/map.png"), "heads.safetensors"),
        (("--show", "heads.safetensors", "--regions", "regions.png"), "--regions"),
        (("--show", "heads.safetensors", "--neighbourhood", 3), "--neighbourhood"),
        (("--show", "heads.safetensors", "--report", "report.json"), "--report"),
        (("--prompts", "prompts.txt", "--regions", "regions.jpg"), "regions.jpg"),
        (("--prompts", "prompts.txt", "--columns", "columns"), ".png"),
        (("--prompts", "prompts.txt", "--reach", "heads.safetensors/reach.png"), "heads.safetensors"),
        (("--prompts", "prompts.txt", "--report", "."), "folder"),
    ],
)
def test_mistakes_are_refused(terminal: Terminal, prompts: list[str], args: tuple[object, ...], word: str) -> None:
    Path("empty.txt").write_text("\n \n")
    assert word in terminal.refusal("heads", *args)
    assert not terminal.loaded


def test_default_prompts_are_of_the_models_world(terminal: Terminal) -> None:
    tasks = {parse(prompt).task for prompt in default_prompts("janus-shapes")}
    assert len(tasks) == 6
    assert not set(default_prompts("janus-shapes")) & set(default_prompts("Janus-Pro-1B"))
