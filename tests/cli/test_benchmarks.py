"""`eval geneval` and `eval dpg`: the folders that the official scorers read."""

from __future__ import annotations

import errno
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import ssd_core
from ssd_core.pictures import to_pil
from tests.cli.terminal import Terminal, interrupt_at
from tests.tiny import TinyModel, random_map, tiny

ODD = ["a red [/red] ring", 'two "quoted" cats, häßlich – 貓\u2028🙂', "a/../b: 100 % $HOME", "x", "a photo of a bench"]
SIDE = 8  # pixels
TOKENS = 16
Reads = Callable[[Path, int], dict[str, list[Image.Image]]]


def geneval_prompts(folder: Path, prompts: list[str] = ODD) -> Path:
    """GenEval's form of some prompts."""
    lines = [{"tag": "counting", "include": [{"class": "bench", "count": 1}], "prompt": prompt} for prompt in prompts]
    file = folder / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def dpg_prompts(folder: Path, prompts: list[str] = ODD) -> Path:
    """DPG-Bench's form of some prompts, beside what systems leave in folders."""
    own = folder / "prompts"
    own.mkdir(exist_ok=True)
    for place, prompt in enumerate(prompts):
        (own / f"item{place}.txt").write_text(f"{prompt}\n", encoding="utf-8")
    (own / "._item0.txt").write_bytes(b"\xff\x00")
    (own / "readme.md").write_text("no prompt")
    return own


def geneval_reads(folder: Path, images: int) -> dict[str, list[Image.Image]]:
    """What GenEval's scorer finds: the pictures in folders whose names are numbers, by the prompt of the metadata."""
    found: dict[str, list[Image.Image]] = {}
    for own in sorted(path for path in folder.iterdir() if path.is_dir() and path.name.isdigit()):
        about = json.loads((own / "metadata.jsonl").read_text(encoding="utf-8"))
        assert about["tag"] == "counting"
        files = sorted(path for path in (own / "samples").iterdir() if re.match(r"\d+\.png", path.name))
        found[about["prompt"]] = [Image.open(path) for path in files]
    return found


def dpg_reads(folder: Path, images: int) -> dict[str, list[Image.Image]]:
    """What DPG-Bench's scorer finds: every file is a picture named as its item, cut into squares row by row."""
    corners = [(0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE)][:images]
    found = {}
    for path in sorted((folder / "images").iterdir()):
        whole = Image.open(path)
        prompt = ODD[int(path.name.split(".")[0].removeprefix("item"))]
        found[prompt] = [whole.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]
    return found


BENCHMARKS: dict[str, tuple[Callable[..., Path], Reads]] = {
    "geneval": (geneval_prompts, geneval_reads),
    "dpg": (dpg_prompts, dpg_reads),
}
both = pytest.mark.parametrize("name", BENCHMARKS)


def arguments(terminal: Terminal, name: str, *args: object) -> tuple[object, ...]:
    """A command that draws the odd prompts into the folder `drawn`."""
    return ("eval", name, "--prompts", BENCHMARKS[name][0](terminal.folder), "--out", "drawn", *args)


def tree(folder: str = "drawn") -> dict[str, bytes]:
    """All that is in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def pictures_in(files: dict[str, bytes]) -> set[str]:
    """The names of the pictures among files."""
    return {name for name in files if name.endswith(".png")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures are painted each time some are."""
    plain = TinyModel.decode_image
    counts: list[int] = []

    def decode(self: TinyModel, tokens: Tensor) -> Tensor:
        if tokens.device.type != "meta":  # planning draws nothing
            counts.append(len(tokens))
        return plain(self, tokens)

    monkeypatch.setattr(TinyModel, "decode_image", decode)
    return counts


@both
@pytest.mark.parametrize("images", [1, 3, 4])
def test_the_scorer_finds_each_prompt_s_pictures_as_drawn_alone(terminal: Terminal, name: str, images: int) -> None:
    """Each with seed + prompt x images + picture, though batches span prompts."""
    policy = ("--method", "window", "--budget", 0.9, "--seed", 7, "--guidance", 3.0, "--negative", "q")
    output = terminal.output(*arguments(terminal, name, *policy, "--kv-dtype", "fp8", "--images", images, "--batch", 5))
    assert f"{len(ODD) * images} pictures of {len(ODD)} prompts are in drawn." in output
    found = BENCHMARKS[name][1](Path("drawn"), images)
    assert list(found) == ODD
    for place, (prompt, pictures) in enumerate(found.items()):
        for picture, shown in enumerate(pictures):
            alone = ssd_core.generate(
                terminal.model,
                [prompt],
                ssd_core.Window(0.9),
                seed=7 + place * images + picture,
                guidance=3.0,
                negative="q",
                kv_dtype="fp8",
            )
            assert shown.size == (SIDE, SIDE)
            assert shown.convert("RGB").tobytes() == to_pil(alone.images)[0].tobytes()
        assert len(pictures) == images


@both
def test_pictures_and_folder_say_how_they_were_drawn(terminal: Terminal, name: str) -> None:
    ssd = ("--method", "ssd", "--budget", 40, "--head-map", "heads.safetensors", "--images", 2, "--seed", 5)
    terminal.output(*arguments(terminal, name, *ssd))
    about = json.loads(Path("drawn/settings.json").read_text(encoding="utf-8"))
    assert (about["benchmark"], about["model"], about["method"]) == (name, "tiny", "ssd")
    assert about["settings"].items() >= {"budget": 40, "seed": 5, "guidance": 5.0, "dtype": "float32"}.items()
    assert (about["prompts"], about["images"], "torch" in about["versions"][0]) == (len(ODD), 2, True)
    file = {"geneval": "00003/samples/0001.png", "dpg": "images/item3.png"}[name]
    with Image.open(Path("drawn", file)) as picture:
        picture.load()
        text = picture.info
    seeds = {"geneval": "12", "dpg": "11, 12"}[name]
    assert (text["prompt"], text["seed"], text["model"], text["method"]) == ("x", seeds, "tiny", "ssd")
    assert json.loads(text["settings"]) == about["settings"]


def test_geneval_s_lines_are_kept_as_they_are(terminal: Terminal) -> None:
    terminal.output(*arguments(terminal, "geneval", "--images", 1))
    lines = [Path(f"drawn/{place:05}/metadata.jsonl").read_text(encoding="utf-8") for place in range(len(ODD))]
    assert "".join(lines) == Path("evaluation_metadata.jsonl").read_text(encoding="utf-8")
    assert {path.name for path in Path("drawn").iterdir()} == {f"{place:05}" for place in range(5)} | {"settings.json"}


def test_the_commands_of_the_scorers_name_the_folder(terminal: Terminal) -> None:
    out = terminal.folder / "it's here"
    for name, pictures in {"geneval": out / "geneval", "dpg": out / "dpg" / "images"}.items():
        prompts = BENCHMARKS[name][0](terminal.folder)
        output = terminal.output("eval", name, "--prompts", prompts, "--out", out / name, "--images", 2)
        commands = [shlex.split(line) for line in output.splitlines() if line.startswith("  ")]
        assert str(pictures) in commands[0]
        if name == "dpg":
            options = dict(zip(commands[0][::-1][1::2], commands[0][::-1][::2], strict=False))
            assert (options["--resolution"], options["--pic-num"]) == ("8", "2")
            assert Path(options["--res-path"]).parent == pictures.parent  # not beside the pictures, which are all read
        else:
            assert commands[0][commands[0].index("--outfile") + 1] == commands[1][-1]


@both
def test_the_batch_changes_nothing(terminal: Terminal, name: str) -> None:
    terminal.output(*arguments(terminal, name, "--batch", 1))
    one = tree()
    for batch in (7, 100):
        Path("drawn").rename(f"drawn before {batch}")
        terminal.output(*arguments(terminal, name, "--batch", batch))
        assert tree() == one


@both
@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("at", "batches"), [(1, 0), (TOKENS, 1), (TOKENS + 1, 1), (3 * TOKENS - 5, 2)])
def test_what_ctrl_c_stopped_goes_on_where_it_was(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, drawn: list[int], name: str, at: int, batches: int
) -> None:
    terminal.output(*arguments(terminal, name, "--batch", 6))
    whole = tree()
    Path("drawn").rename("whole")
    interrupt_at(monkeypatch, at)
    stopped = terminal.run(*arguments(terminal, name, "--batch", 6))
    there = batches * 6 // 4 * 4 if name == "dpg" else batches * 6  # DPG-Bench's pictures come by fours
    assert stopped.exit_code == 130
    assert not stopped.stdout
    assert stopped.stderr == f"Stopped: {there} of 20 pictures are in drawn; the same command goes on.\n"
    assert len(pictures_in(tree())) == (there // 4 if name == "dpg" else there)
    assert all(whole[file] == content for file, content in tree().items())
    drawn.clear()
    terminal.output(*arguments(terminal, name, "--batch", 5))
    assert sum(drawn) == 20 - there
    assert tree() == whole


@both
def test_only_what_is_missing_is_drawn(terminal: Terminal, drawn: list[int], name: str) -> None:
    output = terminal.output(*arguments(terminal, name, "--images", 2))
    whole = tree()
    drawn.clear()
    assert terminal.output(*arguments(terminal, name, "--images", 2)) == output
    assert not drawn
    gone = {"geneval": ["00001/samples/0001.png", "00003/samples/0000.png"], "dpg": ["images/item2.png"]}[name]
    for file in gone:
        Path("drawn", file).unlink()
    terminal.output(*arguments(terminal, name, "--images", 2))
    assert sum(drawn) == 2
    assert tree() == whole


@both
def test_a_full_disk_leaves_no_half_file(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    command = arguments(terminal, name)
    terminal.output(*command)
    whole = tree()
    Path("drawn").rename("whole")
    plain, writes = Path.write_bytes, 0

    def write(self: Path, content: Any) -> int:
        nonlocal writes
        writes += 1
        if writes < 4:
            return plain(self, content)
        plain(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", write)
        assert "No space left on device" in terminal.refusal(*command)
    assert len(tree()) == 3
    assert all(whole[file] == content for file, content in tree().items())
    terminal.output(*command)
    assert tree() == whole


@both
@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("--seed", 1), "seed (0, not 1)"),
        (("--images", 3), "images (1, not 3)"),
        (("--guidance", 2), "guidance (5.0, not 2.0)"),
        (("--negative", "z"), "negative (None, not z)"),
        (("--kv-dtype", "int8"), "kv_dtype (auto, not int8)"),
        (("--budget", 50), "budget (40, not 50)"),
        (("--refresh", 1), "refresh (row, not 1)"),
        (("--head-map", "other.safetensors"), "head_map_checksum"),
        (("--method", "full"), "method (ssd, not full)"),
    ],
)
def test_other_settings_are_refused(terminal: Terminal, name: str, option: tuple[object, ...], said: str) -> None:
    random_map(terminal.model.geometry, seed=7).save("other.safetensors")
    plain = ("--images", 1, "--method", "ssd", "--budget", 40, "--head-map", "heads.safetensors")
    terminal.output(*arguments(terminal, name, *plain))
    before = tree()
    other = plain[:2] if option[-1] == "full" else plain
    sentence = terminal.refusal(*arguments(terminal, name, *other, *option))
    assert sentence.startswith("The pictures in drawn are drawn with another ")
    assert said in sentence
    assert tree() == before


@both
def test_other_prompts_weights_and_benchmarks_are_refused(terminal: Terminal, name: str) -> None:
    terminal.output(*arguments(terminal, name, "--images", 1))
    before = tree()
    other = {"geneval": "dpg", "dpg": "geneval"}[name]
    assert f"another benchmark ({name}, not {other})" in terminal.refusal(*arguments(terminal, other, "--images", 1))
    prompts = BENCHMARKS[name][0](terminal.folder, [*ODD[:-1], "a photo of a cow"])
    assert "another prompts_checksum" in terminal.refusal(
        "eval", name, "--prompts", prompts, "--out", "drawn", "--images", 1
    )
    terminal.model = tiny(seed=1)
    assert "another weights_checksum" in terminal.refusal(*arguments(terminal, name, "--images", 1))
    assert tree() == before


@both
def test_another_version_goes_on_and_is_told(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    terminal.output(*arguments(terminal, name, "--images", 1))
    monkeypatch.setattr(torch, "__version__", "9.9")
    terminal.output(*arguments(terminal, name, "--images", 1))
    terminal.output(*arguments(terminal, name, "--images", 1))
    versions = json.loads(Path("drawn/settings.json").read_text(encoding="utf-8"))["versions"]
    assert [each["torch"] == "9.9" for each in versions] == [False, True]


@both
def test_settings_can_change_until_something_is_drawn(terminal: Terminal, name: str) -> None:
    """What the loop alone refuses is mended with other settings."""
    assert "negative" in terminal.refusal(*arguments(terminal, name, "--negative", "z", "--guidance", 1))
    terminal.output(*arguments(terminal, name, "--guidance", 1, "--images", 1))
    assert json.loads(Path("drawn/settings.json").read_text(encoding="utf-8"))["settings"]["negative"] is None


@both
def test_what_no_budget_allows_is_refused_before_anything_is_drawn(
    terminal: Terminal, drawn: list[int], name: str
) -> None:
    assert "pinned" in terminal.refusal(*arguments(terminal, name, "--method", "window", "--budget", 12, "--batch", 1))
    assert not drawn
    assert not tree()


@both
@pytest.mark.parametrize("stranger", ["notes.txt", "00000/samples/0000.png", "images/item0.png"])
def test_a_folder_of_others_is_left_alone(terminal: Terminal, name: str, stranger: str) -> None:
    Path("drawn", stranger).parent.mkdir(parents=True)
    Path("drawn", stranger).write_bytes(b"")
    assert "drawn holds files but no settings.json" in terminal.refusal(*arguments(terminal, name))
    assert list(tree()) == [stranger]
    assert not terminal.loaded


@both
@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"benchmark": "geneval", "versions": []}', "\udcff"])
def test_damaged_settings_are_refused(terminal: Terminal, name: str, content: str) -> None:
    Path("drawn").mkdir()
    Path("drawn/settings.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert "settings.json does not say" in terminal.refusal(*arguments(terminal, name))
    assert not terminal.loaded


@both
@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("--images", 0), "--images"),
        (("--batch", 0), "--batch"),
        (("--tau", 0.3), "--tau"),
        (("--method", "magic"), "magic"),
        (("--prompts", "absent"), "absent"),
        (("--out", "heads.safetensors"), "heads.safetensors"),
    ],
)
def test_mistakes_are_refused_before_a_model_is_read(
    terminal: Terminal, name: str, args: tuple[object, ...], word: str
) -> None:
    assert word in terminal.refusal(*arguments(terminal, name, *args))
    assert not Path("drawn").exists()
    assert not terminal.loaded


@pytest.mark.parametrize(
    "line",
    [
        "a photo of a bench",
        "{",
        "[]",
        "3",
        '{"tag": "counting"}',
        '{"prompt": "a cow"}',
        '{"tag": "counting", "prompt": " "}',
        '{"tag": "counting", "prompt": 3}',
        '{"tag": "counting", "prompt": "\\ud800"}',
    ],
)
def test_what_is_no_metadata_is_refused(terminal: Terminal, line: str) -> None:
    file = geneval_prompts(terminal.folder)
    file.write_text(file.read_text(encoding="utf-8") + f"\n\n{line}\n", encoding="utf-8")
    sentence = terminal.refusal("eval", "geneval", "--prompts", file, "--out", "drawn")
    assert sentence.startswith(f"Line 8 of {file} is not GenEval's")


def test_what_is_no_file_of_metadata_is_refused(terminal: Terminal) -> None:
    Path("empty").write_text("\n \n")
    Path("bytes").write_bytes(b"\xff\xfe\x00")
    for prompts in ("empty", "bytes", "."):
        assert "evaluation_metadata.jsonl" in terminal.refusal(
            "eval", "geneval", "--prompts", prompts, "--out", "drawn"
        )


@pytest.mark.parametrize(
    ("file", "content", "word"),
    [
        ("a.b.txt", b"a cow", "look up a.b by a"),
        ("empty.txt", b" \n", "holds no prompt"),
        ("bytes.txt", b"\xff", "cannot be read as a text"),
    ],
)
def test_what_is_no_item_is_refused(terminal: Terminal, file: str, content: bytes, word: str) -> None:
    (dpg_prompts(terminal.folder) / file).write_bytes(content)
    assert word in terminal.refusal(*arguments(terminal, "dpg"))


def test_what_is_no_folder_of_items_is_refused(terminal: Terminal) -> None:
    for prompts in (".", "heads.safetensors"):
        assert "no folder of .txt files" in terminal.refusal("eval", "dpg", "--prompts", prompts, "--out", "drawn")
    assert "so not --images 5" in terminal.refusal(*arguments(terminal, "dpg", "--images", 5))


def test_marks_of_byte_order_and_line_ends_are_no_part_of_a_prompt(terminal: Terminal) -> None:
    own = dpg_prompts(terminal.folder, ["x"])
    (own / "item0.txt").write_bytes("\ufeffa cow\r\non a hill\r\n".encode())
    file = geneval_prompts(terminal.folder, ["x"])
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    terminal.output("eval", "dpg", "--prompts", own, "--out", "one", "--images", 1)
    terminal.output("eval", "geneval", "--prompts", file, "--out", "two", "--images", 1)
    for path, prompt in {"one/images/item0.png": "a cow\non a hill", "two/00000/samples/0000.png": "x"}.items():
        with Image.open(path) as picture:
            picture.load()
            assert picture.info["prompt"] == prompt
