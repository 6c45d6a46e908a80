"""`eval clip`, with a tiny random model."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssd_core.evaluate.clip import DEFAULT, Clip
from ssd_core.pictures import save
from tests.cli.terminal import Terminal, rows
from tests.cli.test_benchmarks import arguments
from tests.evaluate.clip import LIMIT, save_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(autouse=True)
def unplugged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked of the network, which answers nothing."""
    asked: list[Any] = []

    def refuse(*where: object, **_: object) -> None:
        asked.append(where)
        raise OSError("unplugged")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def pictures(folder: str, prompts: list[str]) -> list[Image.Image]:
    """Noise, each with a prompt, in a new folder."""
    rng = np.random.default_rng(0)
    made = [Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)) for _ in prompts]
    Path(folder).mkdir()
    save(Path(folder), made, [{"prompt": prompt} for prompt in prompts])
    return made


def evaluate(terminal: Terminal, clip: Path, folder: object) -> dict[str, Any]:
    """The report of `eval clip`."""
    terminal.output("eval", "clip", "--folder", folder, "--clip", clip, "--report", "scores.json")
    scores: dict[str, Any] = json.loads(Path("scores.json").read_text(encoding="utf-8"))
    return scores


def by_hand(clip: Path, picture: Image.Image, prompt: str) -> float:
    """The cosine of a picture of 16 x 16 pixels and a prompt, written out: no resizing, no padding, no library's
    preparation."""
    from transformers import CLIPModel

    vocabulary = json.loads((clip / "vocab.json").read_text())
    words = [[*word[:-1], f"{word[-1]}</w>"] for word in prompt.split()]
    ids = [vocabulary[token] for token in ["<|startoftext|>", *itertools.chain(*words), "<|endoftext|>"]]
    mean, deviation = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    pixels = torch.from_numpy(((np.asarray(picture) / 255 - mean) / deviation).astype(np.float32))
    with torch.inference_mode():
        seen = CLIPModel.from_pretrained(clip)(
            input_ids=torch.tensor([ids]), pixel_values=pixels.permute(2, 0, 1)[None]
        )
    return torch.cosine_similarity(seen.text_embeds, seen.image_embeds).item()


def test_the_score_is_the_cosine_of_picture_and_prompt(clip: Path) -> None:
    prompts = ["a red ring", "two", "a b c d e f g", "ring a red"]
    rng = np.random.default_rng(1)
    shown = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in prompts]
    cosines = Clip(str(clip)).cosines(shown, prompts)
    expected = [by_hand(clip, picture, prompt) for picture, prompt in zip(shown, prompts, strict=True)]
    assert cosines == pytest.approx(expected, abs=1e-5)
    assert len({round(cosine, 3) for cosine in cosines}) == 4


def test_any_folder_of_pictures_with_prompts_is_scored(terminal: Terminal, clip: Path, unplugged: list[Any]) -> None:
    prompts = [f"picture {letter}" for letter in "abcdefghijklmnopqrstuvwxyzabcdefghijkl"]  # over 32
    made = pictures("drawn", prompts)
    scores = evaluate(terminal, clip, "drawn")
    expected = [Clip(str(clip)).cosines([one], [prompt])[0] for one, prompt in zip(made, prompts, strict=True)]
    assert [each["cosine"] for each in scores["likenesses"]] == pytest.approx(expected, abs=1e-5)
    assert scores["overall"] == pytest.approx(100 * sum(expected) / len(expected), abs=1e-3)
    shown = rows(terminal.output("eval", "clip", "--folder", "drawn", "--clip", clip))
    assert shown["overall"] == ["38", f"{scores['overall']:.2f}"]
    Path("drawn/prompts.jsonl").write_text(json.dumps({"file": "0001-picture-a.png", "prompt": "ring"}) + "\n")
    first, *others = evaluate(terminal, clip, "drawn")["likenesses"]
    assert (first["prompt"], [each["prompt"] for each in others]) == ("ring", prompts[1:])
    assert not terminal.loaded
    assert not unplugged


def test_each_picture_of_a_benchmark_is_scored_with_its_prompt(terminal: Terminal, clip: Path) -> None:
    """The same pictures, in GenEval's folders and cut out of DPG-Bench's grids."""
    lively = ("--images", 3, "--guidance", 1, "--temperature", 9.0)
    terminal.output(*arguments(terminal, "geneval", *lively))
    geneval = evaluate(terminal, clip, "drawn")
    Path("drawn").rename("geneval")
    terminal.output(*arguments(terminal, "dpg", *lively))
    dpg = evaluate(terminal, clip, "drawn")
    assert len(geneval["likenesses"]) == 15
    for one, other in zip(geneval["likenesses"], dpg["likenesses"], strict=True):
        assert one["prompt"] == other["prompt"]
        assert one["cosine"] == pytest.approx(other["cosine"], abs=1e-5)
    assert len({round(each["cosine"], 5) for each in dpg["likenesses"]}) == 15
    assert geneval["tasks"].keys() == {"counting"}
    assert not dpg["tasks"]


def test_what_is_not_drawn_yet_and_what_is_not_read_is_told(terminal: Terminal, clip: Path) -> None:
    terminal.output(*arguments(terminal, "geneval", "--images", 2))
    Path("drawn/00003/samples/0001.png").unlink()
    told = terminal.run("eval", "clip", "--folder", "drawn", "--clip", clip).stderr
    assert "Only 9 of 10 pictures are drawn so far." in told
    assert f"CLIP read only the first {LIMIT} tokens of the prompts of 2 pictures." in told
    for file in Path("drawn").rglob("*.png"):
        file.unlink()
    assert "No pictures are drawn in drawn yet" in terminal.refusal("eval", "clip", "--folder", "drawn")
    pictures("short", ["a b"])
    assert not terminal.run("eval", "clip", "--folder", "short", "--clip", clip).stderr


def test_nothing_is_fetched_unasked(terminal: Terminal, unplugged: list[Any]) -> None:
    pictures("drawn", ["a ring"])
    sentence = f"There is no CLIP model {DEFAULT} on this machine"
    assert sentence in terminal.refusal("eval", "clip", "--folder", "drawn")
    for name in ("someone/absent", "absent", "./absent", "a/b/c"):
        assert f"no CLIP model {name} " in terminal.refusal("eval", "clip", "--folder", "drawn", "--clip", name)
    assert not unplugged


def test_what_was_fetched_before_is_found(
    terminal: Terminal, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unplugged: list[Any]
) -> None:
    kept = tmp_path / "models--some--clip"
    shutil.copytree(clip, kept / "snapshots" / "0123")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pictures("drawn", ["a ring"])
    evaluate(terminal, Path("some/clip"), "drawn")
    assert not unplugged


def test_a_fetch_is_asked_for_by_name(terminal: Terminal, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    pictures("drawn", ["a ring"])
    asked = []

    def fetch(name: str, **_: object) -> None:
        asked.append(name)
        raise OSError("nobody there.\nAnd more.")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", fetch)
    plain = ("eval", "clip", "--folder", "drawn")
    fetched = terminal.refusal(*plain, "--clip", "some/clip", "--download")
    assert fetched == "some/clip cannot be fetched (nobody there); name another --clip."
    assert f"say --clip {DEFAULT}" in terminal.refusal(*plain, "--download")
    assert "has no effect" in terminal.refusal(*plain, "--clip", clip, "--download")
    assert asked == ["some/clip"]


def test_what_is_no_clip_model_is_refused(terminal: Terminal, clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel

    pictures("drawn", ["a ring"])
    plain = ("eval", "clip", "--folder", "drawn", "--clip")
    (tmp_path / "empty").mkdir()
    assert "cannot be read (" in terminal.refusal(*plain, tmp_path / "empty")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    assert "of the kind bert" in terminal.refusal(*plain, tmp_path / "bert")
    lacking = save_clip(tmp_path / "lacking")
    model = CLIPModel.from_pretrained(lacking)
    weights = {name: weight for name, weight in model.state_dict().items() if "projection" not in name}
    model.save_pretrained(lacking, state_dict=weights)
    assert "lacks 2 of a CLIP model's tensors" in terminal.refusal(*plain, lacking)
    damaged = save_clip(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"no weights")
    assert "cannot be read (" in terminal.refusal(*plain, damaged)
    assert "no PNG files" in terminal.refusal("eval", "clip", "--folder", tmp_path, "--clip", clip)
