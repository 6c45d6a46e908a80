from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_core.evaluate.captions import parse
from ssd_core.heads import HeadMap, draw, measure
from ssd_core.heads.prompts import default_prompts
from tests.cli.terminal import Terminal

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
