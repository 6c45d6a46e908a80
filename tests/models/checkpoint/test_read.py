"""The same model comes out of every layout, in every dtype."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ssd_core import UserError, load, plan
from ssd_core.memory import module_bytes
from ssd_core.models.checkpoint import read
from ssd_core.models.janus import Janus
from tests.models.small import LAYOUTS, SIZES, save_layout, save_official, save_transformers, transformers_janus
from tests.table import OUT_OF_MEMORY


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("janus"))


@pytest.fixture(scope="module", params=["plain", "deep"])
def expected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Janus]:
    """A size, and the model of that size as read from transformers' layout, which tests/models/test_janus.py proves."""
    size = request.param
    return size, load(save_transformers(tmp_path_factory.mktemp(size), SIZES[size]), "cpu")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_model(layout: str, expected: tuple[str, Janus], tmp_path: Path) -> None:
    size, model = expected
    own = load(save_layout(layout, tmp_path / "model", SIZES[size]), "cpu")
    assert own.name == "model"
    assert own.shape == model.shape
    assert own.encode("a red circle") == model.encode("a red circle")
    weights = own.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_it_is_ready_to_draw(folder: Path) -> None:
    model = load(folder, "cpu")
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(tensor.device == torch.device("cpu") for tensor in [*model.parameters(), *model.buffers()])


@pytest.mark.parametrize(("given", "dtype"), [("bf16", torch.bfloat16), (torch.float16, torch.float16)])
def test_weights_are_converted_as_they_are_read(folder: Path, given: str | torch.dtype, dtype: torch.dtype) -> None:
    model = load(folder, "cpu", given)
    theirs = transformers_janus().state_dict()
    assert {tensor.dtype for name, tensor in model.named_parameters() if not name.startswith("codec.")} == {dtype}
    assert {tensor.dtype for tensor in model.codec.parameters()} == {torch.float32}
    assert torch.equal(model.decoder.norm.weight, theirs["model.language_model.norm.weight"].to(dtype))
    gate = model.state_dict()["decoder.layers.1.gate_up.weight"][:40]
    assert torch.equal(gate, theirs["model.language_model.layers.1.mlp.gate_proj.weight"].to(dtype))


def test_only_the_prompt_embeddings_stay_on_the_processor(folder: Path) -> None:
    model = load(folder, "meta")
    assert model.text.weight.device == torch.device("cpu")
    assert {tensor.device.type for name, tensor in model.named_parameters() if not name.startswith("text.")} == {"meta"}
    assert {tensor.device.type for tensor in load(folder, "meta", text_on_cpu=False).parameters()} == {"meta"}


def test_what_stays_on_the_processor_is_no_memory_of_the_device(folder: Path) -> None:
    away, there, here = load(folder, "meta"), load(folder, "meta", text_on_cpu=False), load(folder, "cpu")
    text = module_bytes(here.text)
    assert text > 0
    assert (plan(away).host_bytes, plan(there).host_bytes, plan(here).host_bytes) == (text // 2, 0, 0)
    assert plan(there).weights_bytes - plan(away).weights_bytes == text // 2
    assert plan(there).peak_bytes - plan(away).peak_bytes == text // 2
    # as in ComfyUI, which brings the other weights to where the model computes
    all_here = plan(here)
    here.computes_on = torch.device("meta")
    assert plan(here).host_bytes == text
    assert plan(here).weights_bytes == all_here.weights_bytes - text


def test_layers_come_from_the_namespace(folder: Path) -> None:
    class Ops:
        class Linear(nn.Linear): ...

        class Embedding(nn.Embedding): ...

        class RMSNorm(nn.RMSNorm): ...

    model = load(folder, "cpu", ops=Ops)
    assert isinstance(model.decoder.layers[0].qkv, Ops.Linear)
    assert isinstance(model.decoder.norm, Ops.RMSNorm)
    assert isinstance(model.codes, Ops.Embedding)
    assert type(model.text) is nn.Embedding  # which may stay on the processor


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["CUDA", "MPS", "Linux", "Windows"])
def test_memory_that_runs_out_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def refuse(module: nn.Module, device: torch.device) -> None:
        raise error

    monkeypatch.setattr(nn.Module, "to_empty", refuse)
    with pytest.raises(UserError, match=r"takes 0\.0 GiB for its weights, more than cpu has free"):
        read.load(folder, "cpu")


def test_what_an_official_configuration_leaves_out_is_llamas(tmp_path: Path) -> None:
    """The published 1B leaves out the rotary base and the norm's epsilon, the 7B the sizes that are Llama's own too."""
    folder = save_official(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rms_norm_eps", "rope_theta", "num_key_value_heads", "head_dim"):
        del config["language_config"][key]
    (folder / "config.json").write_text(json.dumps(config))
    shape = load(folder, "cpu").shape.decoder
    assert (shape.norm_eps, shape.rope_theta, shape.kv_heads, shape.head_dim) == (1e-6, 10000.0, 4, 8)
