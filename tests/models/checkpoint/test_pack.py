from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ssd_core import UserError
from ssd_core.models.checkpoint import pack, save_single_file
from tests.models.small import save_official, save_transformers, transformers_janus, write_folder


def test_the_file_holds_what_drawing_needs_by_transformers_names(tmp_path: Path) -> None:
    folder, file = save_official(tmp_path / "official"), tmp_path / "one.safetensors"
    save_single_file(folder, file)
    theirs = transformers_janus().state_dict()
    with safe_open(file, framework="pt") as opened:
        own = {name: opened.get_tensor(name) for name in list(opened.keys())}
        metadata = opened.metadata()
    unneeded = ("lm_head.", "model.vision_model.", "model.aligner.")
    assert own.keys() == {name for name in theirs if not name.startswith(unneeded)}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())
    assert json.loads(metadata["config"]) == json.loads((folder / "config.json").read_text())
    assert metadata["tokenizer"] == (folder / "tokenizer.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    origin = save_official(tmp_path / "official")
    tensors = {name: tensor.to(dtype) for name, tensor in torch.load(origin / "pytorch_model.bin").items()}
    write_folder(tmp_path / "cast", json.loads((origin / "config.json").read_text()), tensors)
    save_single_file(tmp_path / "cast", tmp_path / "one.safetensors")
    with safe_open(tmp_path / "one.safetensors", framework="pt") as opened:
        packed = opened.get_tensor("model.generation_embeddings.weight")
    assert packed.dtype == dtype
    assert torch.equal(packed, tensors["gen_embed.weight"])


def test_a_packed_file_packs_to_itself(tmp_path: Path) -> None:
    save_single_file(save_transformers(tmp_path / "model"), tmp_path / "one.safetensors")
    save_single_file(tmp_path / "one.safetensors", tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_file_that_could_not_be_finished_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_transformers(tmp_path / "model")

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, "write", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_single_file(folder, tmp_path / "one.safetensors")
    assert list(tmp_path.iterdir()) == [folder]


def test_it_must_be_known_as_a_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one\.bin would not be known .* ends in \.safetensors"):
        save_single_file(save_transformers(tmp_path / "model"), tmp_path / "one.bin")
