from __future__ import annotations

import importlib.metadata
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ssd_core
from ssd_core.cli.fields import flag, parameters
from ssd_core.policies import METHODS
from ssd_core.sampling import Sampling
from tests.cli.terminal import Terminal, interrupt_at
from tests.tiny import TinyModel, random_map

MAP = ("--head-map", "heads.safetensors")
METHOD = {
    "full": ("--method", "full"),
    "window": ("--method", "window", "--budget", 8),
    "streaming": ("--method", "streaming", "--budget", 8),
    "diagonal": ("--method", "diagonal", "--budget", 10),
    "ssd": ("--method", "ssd", "--budget", 16, *MAP),
    "reach": ("--method", "reach", "--budget", 16, "--head-map", "reach.safetensors"),
    "headkv": ("--method", "headkv", "--budget", 14, "--type-at", 11, "--local", 3),
    "h2o": ("--method", "h2o", "--budget", 14, "--recent", 2),
    "snapkv": ("--method", "snapkv", "--budget", 15),
    "line-ar": ("--method", "line-ar", "--budget", 17, "--anchors", 2, "--recent", 1),
    "adsa": ("--method", "adsa", "--budget", 16),
}
# every option, where it is taken: each changes what is drawn
OPTIONS: dict[str, list[tuple[object, ...]]] = {
    "full": [
        ("--guidance", 2),
        ("--temperature", 50.0),
        ("--top-k", 1),
        ("--top-p", 0.01),
        ("--greedy",),
        ("--negative", "xyz"),
        ("--seed", 5),
        ("--kv-dtype", "int8"),
        ("--kv-dtype", "fp8"),
    ],
    "window": [("--budget", 12), ("--budget", 0.6), ("--no-pin-prompt",)],
    "streaming": [("--budget", 12), ("--sinks", 1)],
    "diagonal": [("--budget", 12), ("--held", 1.0)],
    "ssd": [
        ("--budget", 17),
        ("--refresh", 1),
        ("--tau", 0.7),
        ("--spatial", 1),
        ("--recent", 0),
        ("--half-life", 0.1),
        ("--no-pin-prompt",),
        ("--literal",),
        ("--head-map", "other.safetensors"),
    ],
    "reach": [
        ("--budget", 17),
        ("--refresh", 1),
        ("--half-life", 0.1),
        ("--lost", 0.5),
        ("--head-map", "other.safetensors"),
    ],
    "headkv": [
        ("--budget", 15),
        ("--type-at", 13),
        ("--mass", 0.5),
        ("--local", 4),
        ("--refresh", 1),
        ("--split", 0.8),
    ],
    "h2o": [("--budget", 15), ("--refresh", 1), ("--recent", 0), ("--no-pin-prompt",)],
    "snapkv": [("--budget", 16), ("--refresh", 1), ("--window", 1), ("--pool", 1), ("--no-pin-prompt",)],
    "line-ar": [("--budget", 18), ("--refresh", 1), ("--anchors", 0), ("--recent", 0)],
    "adsa": [("--budget", 17), ("--refresh", 1), ("--recent", 0), ("--no-pin-prompt",), ("--offload",)],
}
CHANGES = [(name, option) for name, own in OPTIONS.items() for option in own]


@pytest.mark.parametrize(("method", "option"), CHANGES, ids=lambda part: "".join(map(str, part)))
def test_each_option_changes_what_is_drawn(terminal: Terminal, method: str, option: tuple[object, ...]) -> None:
    random_map(terminal.model.geometry, seed=7).save("other.safetensors")
    plain = ("abcde", *METHOD[method], "--images", 24)
    assert terminal.tokens(*plain) != terminal.tokens(*plain, *option)


def test_every_parameter_of_a_method_and_of_sampling_is_tried_here() -> None:
    tried = {str(option[0]).replace("--no-", "--") for _, option in CHANGES}
    assert {flag(name) for name in (*parameters(METHODS), *parameters({"": Sampling}))} <= tried
    assert METHODS.keys() == OPTIONS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_an_option_of_other_methods_is_refused(terminal: Terminal, method: str) -> None:
    for name, parameter in parameters(METHODS).items():
        if method in parameter.takers:
            continue
        option = [flag(name)] if parameter.kinds == (bool,) else [flag(name), 1]
        if name == "head_map":
            option = list(MAP)
        sentence = terminal.refusal("generate", "ab", "--method", method, *option)
        assert sentence == f"{flag(name)} is for {' and '.join(parameter.takers)}, not for {method}; leave it out."
    assert not terminal.loaded


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--method", "magic"), "magic"),
        (("--budget", "much"), "--budget"),
        (("--budget", 1.5), "1.5"),
        (("--refresh", "column"), "--refresh"),
        (("--head-map", "absent.safetensors"), "absent.safetensors"),
        (("--tau", 3), "tau"),
        (("--temperature", 0), "temperature"),
        (("--step", "fast"), "fast"),
        (("--greedy", "--top-k", 3), "greedy"),
        (("--out", "heads.safetensors"), "heads.safetensors"),
        (("--report", "heads.safetensors/report.json"), "heads.safetensors"),
        (("--report", "."), "folder"),
    ],
)
def test_mistakes_are_refused_in_one_sentence_before_a_model_is_read(
    terminal: Terminal, args: tuple[object, ...], word: str
) -> None:
    assert word in terminal.refusal("generate", "ab", *args)
    assert not terminal.loaded


def test_what_only_the_model_can_refuse_is_one_sentence_too(terminal: Terminal) -> None:
    assert "No head map is known for tiny" in terminal.refusal("generate", "ab")
    assert "images_per_prompt" in terminal.refusal("generate", "ab", *METHOD["full"], "--images", 0)
    assert "pinned" in terminal.refusal("generate", "abcdefgh", "--method", "window", "--budget", 8)
    assert not list(terminal.folder.glob("out/*"))


def test_other_errors_keep_their_traceback(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(TinyModel, "decode_image", fail)
    with pytest.raises(ZeroDivisionError):
        terminal.run("generate", "ab", *METHOD["full"])


def test_the_model_is_read_as_asked(terminal: Terminal) -> None:
    terminal.output("generate", "ab", *METHOD["full"])
    terminal.output(
        "generate", "ab", *METHOD["full"], "--model", "x", "--device", "cpu", "--dtype", "bf16", "--weights", "int8"
    )
    assert terminal.loaded == [
        ("janus-shapes", {"device": "auto", "dtype": "auto", "weights": "auto"}),
        ("x", {"device": "cpu", "dtype": "bf16", "weights": "int8"}),
    ]


def test_pictures_are_what_the_engine_draws(terminal: Terminal) -> None:
    report = terminal.generate("ab", "cd", *METHOD["window"], "--images", 2, "--seed", 3)
    drawn = ssd_core.generate(terminal.model, ["ab", "cd"], ssd_core.Window(8), images_per_prompt=2, seed=3)
    assert [image["tokens"] for image in report["images"]] == drawn.tokens.tolist()
    for image, expected in zip(report["images"], drawn.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(image["file"])), (expected * 255).round().numpy().astype(np.uint8))


def test_a_png_says_what_it_was_drawn_from(terminal: Terminal) -> None:
    report = terminal.generate("ein 红色", "cd", *METHOD["ssd"], "--seed", 3, "--images", 2, "--kv-dtype", "int8")
    texts = [Image.open(image["file"]).info for image in report["images"]]
    assert [text["prompt"] for text in texts] == ["ein 红色", "ein 红色", "cd", "cd"]
    assert [text["seed"] for text in texts] == ["3", "4", "5", "6"]
    assert {(text["model"], text["method"]) for text in texts} == {("tiny", "ssd")}
    settings = json.loads(texts[0]["settings"])
    assert settings == report["settings"]
    assert (settings["budget"], settings["kv_dtype"], settings["seed"]) == (16, "int8", 3)


def paint_file(path: str, picture: np.ndarray[Any, Any]) -> str:
    Image.fromarray(picture).save(path)
    return path


def test_a_picture_is_gone_on_with_and_redrawn_under_a_mask(terminal: Terminal) -> None:
    window = ("ab", *METHOD["window"], "--images", 2)
    plain = terminal.tokens(*window)
    # the tiny model's pictures are its tokens in grey; these are of no size of its own
    start = paint_file("start.png", np.full((24, 24, 3), round(7 / 20 * 255), np.uint8))
    report = terminal.generate(*window, "--start", start, "--keep-rows", 2)
    tokens = [image["tokens"] for image in report["images"]]
    assert [own[:8] for own in tokens] == [[7] * 8] * 2
    assert tokens != plain
    assert tokens[0][8:] != tokens[1][8:] != [7] * 8
    assert {name: report["settings"][name] for name in ("start", "keep_rows", "mask")} == {
        "start": start, "keep_rows": 2, "mask": None
    }  # fmt: skip
    white = np.zeros((8, 8), np.uint8)
    white[3, 5] = white[7, 7] = 255
    masked = terminal.tokens(*window, "--start", start, "--mask", paint_file("mask.png", white))
    assert all(own[:6] + own[7:15] == [7] * 14 for own in masked)
    assert any(own[6] != 7 or own[15] != 7 for own in masked)
    both = terminal.tokens(*window, "--start", start, "--mask", "mask.png", "--keep-rows", 3)
    assert all(own[:15] == [7] * 15 for own in both)


def test_a_start_that_is_all_or_nothing_is_refused(terminal: Terminal) -> None:
    start = paint_file("start.png", np.zeros((24, 24, 3), np.uint8))
    for grey, word in ((0, "nothing is left to draw"), (255, "Nothing of the picture stays")):
        mask = paint_file("mask.png", np.full((8, 8), grey, np.uint8))
        assert word in terminal.refusal("generate", "ab", *METHOD["full"], "--start", start, "--mask", mask)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--keep-rows", 2), "give it with --start"),
        (("--mask", "heads.safetensors"), "give it with --start"),
        (("--start", "heads.safetensors"), "give --keep-rows or --mask"),
        (("--start", "absent.png", "--keep-rows", 1), "absent.png cannot be read as a picture (No such file"),
        (("--start", "heads.safetensors", "--keep-rows", 1), "cannot be read as a picture (of no known format)"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_a_model_is_read(
    terminal: Terminal, args: tuple[object, ...], word: str
) -> None:
    assert word in terminal.refusal("generate", "ab", *METHOD["full"], *args)
    assert not terminal.loaded


def test_a_seed_in_a_png_draws_its_picture_alone(terminal: Terminal) -> None:
    together = terminal.tokens("ab", "cd", *METHOD["full"], "--seed", 3)
    assert terminal.tokens("cd", *METHOD["full"], "--seed", 4) == together[1:]


def test_nothing_is_ever_overwritten(terminal: Terminal) -> None:
    terminal.output("generate", "ab", *METHOD["full"])
    first = {path: path.read_bytes() for path in Path("out").iterdir()}
    files = [image["file"] for image in terminal.generate("ab", "ab", *METHOD["full"], "--seed", 9)["images"]]
    assert len(first) == 1
    assert {path: path.read_bytes() for path in first} == first
    assert len(set(Path("out").iterdir())) == 3
    assert files == sorted(files)
    assert [int(Path(file).name[:4]) for file in files] == [2, 3]


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a" * 500, "???", "con: a|b", "红色的圆"])
def test_any_prompt_becomes_a_file_name(terminal: Terminal, prompt: str) -> None:
    [image] = terminal.generate(prompt, *METHOD["full"], "--out", "deep/er")["images"]
    path = Path(image["file"])
    assert path.parent == Path("deep/er")
    assert path.exists()
    assert len(path.name.encode()) < 255


def test_the_report_is_whole(terminal: Terminal) -> None:
    report = terminal.generate("ab", *METHOD["window"], "--images", 2, "--negative", "cd")
    assert set(report) == {
        "model", "method", "settings", "images", "memory", "seconds", "tokens_per_second", "step", "versions"
    }  # fmt: skip
    assert (report["model"], report["method"]) == ("tiny", "window")
    assert report["settings"] == {
        "images_per_prompt": 2, "seed": 0, "negative": "cd", "kv_dtype": "auto", "step": "auto", "guidance": 5.0,
        "temperature": 1.0, "top_k": 0, "top_p": 1.0, "greedy": False, "budget": 8, "pin_prompt": True,
        "dtype": "float32", "weights": "auto",
    }  # fmt: skip
    assert [(image["prompt"], image["seed"], len(image["tokens"])) for image in report["images"]] == [
        ("ab", 0, 16),
        ("ab", 1, 16),
    ]
    memory, seconds = report["memory"], report["seconds"]
    assert 0 < memory["kv_bytes"] < memory["kv_bytes_full"] < memory["peak_bytes"]
    assert memory["weights_bytes"] > 0
    assert set(seconds) == {"load", "prefill", "decode", "pictures"}
    assert all(part >= 0 for part in seconds.values())
    assert report["tokens_per_second"] == pytest.approx(32 / seconds["decode"])
    assert set(report["versions"]) == {"ssd_core", "torch", "transformers", "python", "device"}
    assert report["versions"]["transformers"] == importlib.metadata.version("transformers")


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling takes a C++ compiler")
def test_the_command_line_compiles_when_told_to(terminal: Terminal) -> None:
    from ssd_core.compiled import KNOWN

    known = set(KNOWN)
    told, plain = (terminal.generate("ab", *METHOD["window"], *flags) for flags in (["--step", "compiled"], []))
    assert (told["settings"]["step"], plain["settings"]["step"]) == ("compiled", "auto")
    assert told["step"] == "compiled"
    assert plain["step"].startswith(("kernel", "plain"))  # there may be no compiler
    assert [image["tokens"] for image in told["images"]] == [image["tokens"] for image in plain["images"]]
    assert len(KNOWN - known) == 1


def test_the_output_is_the_files_and_the_cache(terminal: Terminal) -> None:
    *files, summary = terminal.output("generate", "ab", "cd", *METHOD["window"]).splitlines()
    assert [Path(file).parent for file in files] == [Path("out")] * 2
    assert all(Path(file).exists() for file in files)
    memory = terminal.generate("ab", "cd", *METHOD["window"])["memory"]
    assert f"{memory['kv_bytes'] / memory['kv_bytes_full']:.2f} of the full cache" in summary


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_stops_after_the_row_and_keeps_what_was_drawn(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = terminal.tokens("ab", "cd", *METHOD["full"])
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 6)
    result = terminal.run("generate", "ab", "cd", *METHOD["full"], "--report", "stopped.json", "--out", "stopped")
    assert result.exit_code == 0
    assert "Stopped after row 2 of 4; what was not drawn is grey." in result.stderr
    images = json.loads(Path("stopped.json").read_text())["images"]
    assert [image["tokens"] for image in images] == [tokens[:8] + [-1] * 8 for tokens in whole]
    for image in images:
        pixels: Any = np.asarray(Image.open(image["file"]))
        assert (pixels[4:] == 128).all()
        assert not (pixels[:4] == 128).all()
    assert signal.getsignal(signal.SIGINT) == before


def test_an_interrupt_that_was_ignored_is_ignored_still(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt_at(monkeypatch, 5)
        assert -1 not in terminal.tokens("ab", *METHOD["full"])[0]
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_ends_it_at_once(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_at(monkeypatch, 5, 6)
    assert terminal.run("generate", "ab", *METHOD["full"]).exit_code != 0
    assert not list(Path("out").iterdir())
    assert signal.getsignal(signal.SIGINT) == before
