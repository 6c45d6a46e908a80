"""Files are found and read sparingly; what is wrong with them is in test_refusals.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssd_core import load
from ssd_core.models.checkpoint import files
from tests.models.small import save_official, save_transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("janus"))


def test_the_embedded_model_goes_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ASSETS", folder.parent)
    assert files.find(folder.name) == folder


def test_a_file_that_stands_in_its_folder_is_read_with_it(tmp_path: Path) -> None:
    file = save_official(tmp_path) / "pytorch_model.bin"
    assert load(file, "cpu").name == "pytorch_model"


def test_a_file_is_mapped_anew_so_that_little_of_it_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[Path] = []
    original = files.map_tensors

    def count(file: Path) -> dict[str, Tensor]:
        mapped.append(file)
        return original(file)

    monkeypatch.setattr(files, "map_tensors", count)
    checkpoint = files.Checkpoint(folder)
    largest = max(entry.bytes for entry in checkpoint.entries.values())
    monkeypatch.setattr(files, "MAPPED_AT_ONCE", largest)
    mapped.clear()
    read = dict(checkpoint.read(checkpoint.entries))
    assert len(mapped) > sum(entry.bytes for entry in checkpoint.entries.values()) / (2 * largest) - 1
    assert all(torch.equal(tensor, read[name]) for name, tensor in original(mapped[0]).items())
