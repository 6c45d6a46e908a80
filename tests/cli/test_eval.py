from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ssd_core.evaluate.scenes import TASKS, render, sample
from ssd_core.evaluate.shapes import held_out_prompts, score
from ssd_core.pictures import save
from ssd_core.policies import Window
from tests.cli.terminal import Terminal, rows


def evaluate(terminal: Terminal, *args: object) -> dict[str, Any]:
    """The report of `eval shapes`."""
    terminal.output("eval", "shapes", *args, "--report", "scores.json")
    scores: dict[str, Any] = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    return scores


def test_a_folder_is_scored(terminal: Terminal) -> None:
    rng = random.Random(0)
    scenes = [sample(rng, task=task) for task in TASKS * 2]
    texts = [{"prompt": scene.caption} for scene in scenes]
    texts[0] = {"prompt": "four green rings"}  # what is not there
    Path("drawn").mkdir()
    save(Path("drawn"), [Image.fromarray(render(scene)) for scene in scenes], texts)
    shown = rows(terminal.output("eval", "shapes", "--folder", "drawn"))
    wrong, right = shown["counting"], shown["position"]
    assert wrong == ["3", "0.667"]
    assert right == ["2", "1.000"]
    assert shown["overall"] == ["12", f"{(5 + 2 / 3) / 6:.3f}"]
    assert not terminal.loaded
    scores = evaluate(terminal, "--folder", "drawn")
    assert (scores["folder"], sum(not verdict["reason"] for verdict in scores["verdicts"])) == ("drawn", 11)


@pytest.mark.parametrize("option", ["--model", "--method", "--prompts", "--seed", "--budget", "--top-k"])
def test_a_folder_takes_no_option_of_drawing(terminal: Terminal, option: str) -> None:
    sentence = terminal.refusal("eval", "shapes", "--folder", ".", option, 1)
    assert sentence == f"--folder draws nothing, so {option} has no effect; leave it out."


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--folder", "absent"), "absent"),
        (("--prompts", 0), "--prompts"),
        (("--batch", 0), "--batch"),
        (("--tau", 0.3), "--tau"),
        (("--report", "."), "folder"),
    ],
)
def test_mistakes_are_refused(terminal: Terminal, args: tuple[object, ...], word: str) -> None:
    assert word in terminal.refusal("eval", "shapes", *args)
    assert not terminal.loaded


def test_what_scoring_needs_is_asked_for_before_anything_is_drawn(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    assert "pip install scipy" in terminal.refusal("eval", "shapes")
    assert not terminal.loaded


def test_held_out_prompts_are_drawn_and_scored(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[torch.Tensor] = []

    def keep(given: Any, captions: Any) -> Any:
        pictures.append(torch.stack([torch.from_numpy(picture) for picture in given]))
        return score(given, captions)

    monkeypatch.setattr("ssd_core.cli.eval.shapes.score", keep)
    plain = ("--method", "window", "--budget", 70, "--prompts", 7, "--seed", 3)
    scores = evaluate(terminal, *plain)
    assert [verdict["caption"] for verdict in scores["verdicts"]] == held_out_prompts(7)
    assert (scores["model"], scores["method"], "torch" in scores["versions"]) == ("tiny", "window", True)
    assert scores["settings"].items() >= {"budget": 70, "seed": 3, "batch": 16, "guidance": 5.0}.items()
    evaluate(terminal, *plain, "--batch", 2)
    assert torch.equal(pictures[0], pictures[1])  # however many at once
    import ssd_core

    alone = ssd_core.generate(terminal.model, held_out_prompts(7)[4:5], Window(70), seed=3 + 4)
    assert torch.equal(pictures[0][4:5], alone.images)
