"""`inspect` and `pack`, on checkpoints of a small Janus."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssd_core.models.checkpoint import load
from tests.cli.terminal import Terminal, rows
from tests.models.small import save_official, save_transformers


def test_inspect_says_what_a_checkpoint_is(terminal: Terminal) -> None:
    output = terminal.output("inspect", save_official(terminal.folder / "small"))
    facts, parts = map(rows, output.split("\n\n"))
    assert facts["layout"] == ["official"]
    assert facts["family"] == ["multi_modality"]
    assert facts["decoder"] == ["2 layers x 4 heads of 8"]
    assert facts["picture"] == ["4 x 4 tokens of 48"]
    assert facts["dtype"] == ["float32"]
    assert parts["decoder"][-1] == "-"
    assert parts["vision_model"][-1] == "not needed"


def test_inspect_says_what_is_missing_and_fails(terminal: Terminal) -> None:
    folder = save_official(terminal.folder / "small")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({name: weights[name] for name in weights if "gen_head" not in name}, folder / "pytorch_model.bin")
    result = terminal.run("inspect", folder)
    assert result.exit_code == 1
    assert "gen_head" in result.stderr
    (folder / "config.json").unlink()
    assert "config.json" in terminal.run("inspect", folder).stderr


def test_inspect_refuses_what_is_not_there(terminal: Terminal) -> None:
    assert "absent" in terminal.refusal("inspect", "absent")


@pytest.mark.parametrize("save", [save_official, save_transformers])
def test_pack_makes_one_file_that_loads_alone(terminal: Terminal, save: object) -> None:
    folder = save(terminal.folder / "small")  # type: ignore[operator]
    assert terminal.output("pack", folder, "small.safetensors").startswith("small.safetensors: ")
    packed, plain = load("small.safetensors"), load(folder)
    assert all(map(torch.equal, packed.state_dict().values(), plain.state_dict().values()))


def test_pack_overwrites_nothing(terminal: Terminal) -> None:
    folder = save_transformers(terminal.folder / "small")
    before = Path("heads.safetensors").read_bytes()
    assert "exists already" in terminal.refusal("pack", folder, "heads.safetensors")
    assert Path("heads.safetensors").read_bytes() == before


def test_pack_makes_the_folder_it_writes_into(terminal: Terminal) -> None:
    folder = save_transformers(terminal.folder / "small")
    terminal.output("pack", folder, "new/small.safetensors")
    assert Path("new/small.safetensors").exists()


def test_a_path_is_not_taken_for_the_embedded_model(terminal: Terminal) -> None:
    Path("janus-shapes").mkdir()
    assert "janus-shapes" in terminal.output("inspect", "janus-shapes")
    assert terminal.run("inspect", "./janus-shapes").exit_code == 1


def test_brackets_in_a_path_are_only_brackets(terminal: Terminal) -> None:
    folder = save_official(terminal.folder / "[bold] small [x]")
    assert str(folder) in " ".join(terminal.output("inspect", folder).split("\n"))
    assert "[/red]" in terminal.refusal("pack", "a[/red]b", "small.safetensors")


def test_pack_refuses_what_cannot_be_read(terminal: Terminal) -> None:
    assert "absent" in terminal.refusal("pack", "absent", "small.safetensors")
    assert not Path("small.safetensors").exists()
