"""Models fetched from a hub that is not there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssd_core.models.checkpoint.files import find
from tests.nodes import stand_in
from tests.table import check_sentence

HUB = Path(__file__).with_name("hub.py")
NAME = "Janus-Pro-1B"
READ = {"config.json", "tokenizer.json", "model.safetensors"}


class Hub:
    """What is on the hub, what it does, and what it was asked for."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch, self.log = monkeypatch, folder / "log"
        content = folder / "content"
        shutil.copytree(find("janus-shapes"), content)
        (content / "pytorch_model.bin").write_bytes(b"code that must not run")
        (content / "training_args.safetensors.py").write_text("no")
        (folder / "path" / "huggingface_hub").mkdir(parents=True)
        shutil.copy(HUB, folder / "path" / "huggingface_hub" / "__init__.py")
        for name, value in {"HUB": content, "HUB_LOG": self.log, "PYTHONPATH": folder / "path"}.items():
            monkeypatch.setenv(name, str(value))
        self.content = content
        self.does("works")

    def does(self, what: str) -> None:
        self.monkeypatch.setenv("HUB_DOES", what)
        self.log.write_text("")

    @property
    def asked(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def bytes(self) -> int:
        return sum((self.content / name).stat().st_size for name in READ)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(tmp_path, monkeypatch)


@pytest.fixture
def folder(models: Path, comfy: SimpleNamespace) -> Any:
    """Where the model goes, empty at first."""
    comfy.management.interrupt_after = None
    folder = models / "janus" / NAME
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def load(comfy: SimpleNamespace) -> Any:
    return comfy.nodes["SSDJanusLoad"].execute(f"download {NAME}", "auto").args[0]


def refusal(comfy: SimpleNamespace) -> str:
    with pytest.raises(Exception, match=r"\.$") as caught:
        load(comfy)
    assert type(caught.value).__name__ == "UserError"
    check_sentence(caught.value)
    return str(caught.value)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_model_is_fetched_once_and_only_what_is_read(comfy: SimpleNamespace, hub: Hub, folder: Path) -> None:
    assert load(comfy).model.name == NAME
    assert {path.name for path in folder.iterdir() if path.is_file()} == READ
    assert hub.asked[0]["repository"] == "deepseek-community/Janus-Pro-1B"
    value, total, _ = stand_in.ProgressBar.told[-1]
    assert value == total == hub.bytes
    hub.does("offline")
    assert load(comfy).model.name == NAME
    assert not hub.asked


def test_what_is_in_another_folder_of_models_is_taken_from_there(
    comfy: SimpleNamespace, hub: Hub, models: Path
) -> None:
    hub.does("offline")
    there = models / "Janus-Pro" / NAME
    shutil.copytree(find("janus-shapes"), there)
    try:
        assert load(comfy).model.name == NAME
    finally:
        shutil.rmtree(there)
    assert not hub.asked


def test_an_interruption_ends_the_fetching_and_the_next_run_goes_on(
    comfy: SimpleNamespace, hub: Hub, folder: Path
) -> None:
    hub.does("slow")
    comfy.management.interrupt_after = 8
    with pytest.raises(stand_in.Interrupted):
        load(comfy)
    assert not alive(hub.asked[0]["pid"])
    told = [value for value, _, _ in stand_in.ProgressBar.told]
    assert told == sorted(told)
    assert 0 < told[-1] < hub.bytes
    half = (folder / ".cache" / "model.safetensors.incomplete").stat().st_size
    hub.does("works")
    comfy.management.interrupt_after = None
    assert load(comfy).model.name == NAME
    assert {"file": "model.safetensors", "begun": half} in hub.asked


def test_a_disk_that_fills_up_is_a_sentence(comfy: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.does("full")
    assert "is full; make room" in refusal(comfy)


def test_a_disk_that_is_too_small_is_told_before(
    comfy: SimpleNamespace, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20))
    hub.does("slow")
    assert "where 1 MiB are free" in refusal(comfy)
    assert not (folder / "model.safetensors").exists()


def test_a_hub_that_cannot_be_reached_is_a_sentence(comfy: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.does("offline")
    assert "could not be fetched from the hub (Name or service not known)" in refusal(comfy)


def test_a_program_that_ends_without_a_word_is_a_sentence(comfy: SimpleNamespace, hub: Hub, folder: Path) -> None:
    hub.does("dies")
    assert "the fetching program ended" in refusal(comfy)


def test_a_hub_that_lacks_files_is_a_sentence(comfy: SimpleNamespace, hub: Hub, folder: Path) -> None:
    (hub.content / "tokenizer.json").unlink()
    assert "lacks files of a Janus" in refusal(comfy)


def test_the_program_ends_with_whoever_started_it(comfy: SimpleNamespace, hub: Hub, tmp_path: Path) -> None:
    hub.does("slow")
    program = Path(__file__).parents[2] / "nodes" / "hub" / "fetch.py"
    with subprocess.Popen(  # noqa: S603
        [sys.executable, str(program), "a/b", str(tmp_path), "*.safetensors"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert b"total" in process.stdout.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == 1
