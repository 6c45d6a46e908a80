"""The decoder's matrices in ComfyUI's quantized layers, for which tests/nodes/quant_ops.py stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssd_core import load
from ssd_core.memory import module_bytes
from ssd_core.models.small.shrink import LINEAR
from tests.comfyui.checkpoints import MATRIX, write_quantized
from tests.nodes import quant_ops, stand_in
from tests.table import check_sentence

CPU = torch.device("cpu")
FP8 = torch.float8_e4m3fn
COPIES = {
    "float8_e4m3fn": (FP8, False),
    "float8_e5m2": (torch.float8_e5m2, False),
    "int8_tensorwise": (torch.int8, False),
    "scaled_fp8": (FP8, True),
}
PARTS = {"qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], "out": ["self_attn.o_proj"]}
PARTS |= {"gate_up": ["mlp.gate_proj", "mlp.up_proj"], "down": ["mlp.down_proj"]}


@pytest.fixture(scope="module")
def pack(comfy: SimpleNamespace) -> SimpleNamespace:
    """The modules at hand."""
    names = ("held", "quantized", "layers", "load")
    return SimpleNamespace(**{name: sys.modules[f"{stand_in.PACK}.nodes.{name}"] for name in names})


@pytest.fixture
def forgetful(pack: SimpleNamespace) -> Iterator[None]:
    """What was found out of ComfyUI is forgotten before and after."""
    pack.quantized.refusal.cache_clear()
    yield
    pack.quantized.refusal.cache_clear()


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    for name, (kept, old) in COPIES.items():
        write_quantized(folder / name, kept, old)
    return folder


def held(pack: SimpleNamespace, path: Path | str, weights: str = "auto", precision: str = "fp32") -> Any:
    model = pack.held.Held(str(path), precision, weights).model
    assert model.weights == weights
    return model


def matrices(model: Any) -> Iterator[tuple[str, Any]]:
    for index, layer in enumerate(model.decoder.layers):
        for name in LINEAR:
            yield f"{index}.{name}", getattr(layer, name)


def in_the_file(path: Path, name: str) -> list[Tensor]:
    """The tensors that a matrix of the decoder is made of."""
    tensors = load_file(path / "model.safetensors")
    index, kind = name.split(".")
    return [tensors[f"model.language_model.layers.{index}.{own}.weight"] for own in PARTS[kind]]


def same_products(model: Any, plain: Any, most: float, least: float = 0.0) -> None:
    for (name, own), (_, other) in zip(matrices(model), matrices(plain), strict=True):
        x = torch.randn(3, other.weight.shape[1], generator=torch.Generator().manual_seed(0))
        exact = other(x)
        assert least <= float((own(x) - exact).norm() / exact.norm()) < most, name


@pytest.mark.parametrize("name", COPIES)
def test_a_quantized_file_stays_as_it_is(pack: SimpleNamespace, copies: Path, name: str) -> None:
    model, plain = held(pack, copies / name), load(copies / name, "cpu", "fp32")
    for matrix, layer in matrices(model):
        assert isinstance(layer, pack.quantized.Quantized)
        for part, theirs in zip(layer.parts, in_the_file(copies / name, matrix), strict=True):
            assert part.weight.matrix.dtype == theirs.dtype == COPIES[name][0]
            assert torch.equal(part.weight.matrix.view(torch.uint8), theirs.view(torch.uint8))
    same_products(model, plain, 1e-6)
    assert all(part.lent == 0 for _, layer in matrices(model) for part in layer.parts)


def test_nothing_but_the_decoder_s_matrices_is_kept_so(pack: SimpleNamespace, copies: Path) -> None:
    model, plain = held(pack, copies / "float8_e4m3fn"), load("janus-shapes", "cpu", "fp32")
    own, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert {*theirs} - {*own} == {f"decoder.layers.{name}.weight" for name, _ in matrices(plain)}
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in own.items())


@pytest.mark.parametrize("name", COPIES)
def test_a_plan_counts_what_is_held(pack: SimpleNamespace, copies: Path, name: str) -> None:
    model, plain = held(pack, copies / name), load(copies / name, "cpu", "fp32")
    planned = model.skeleton()
    assert module_bytes(planned.decoder) == module_bytes(model.decoder) < 0.4 * module_bytes(plain.decoder)
    assert module_bytes(planned.skeleton().decoder) == module_bytes(planned.decoder)
    for (_, own), (_, other) in zip(matrices(planned), matrices(plain), strict=True):
        outputs, inputs = other.weight.shape
        assert own(torch.empty(5, inputs, device="meta")).shape == (5, outputs)


def test_in_full_a_quantized_file_is_multiplied_out(pack: SimpleNamespace, copies: Path) -> None:
    model = held(pack, copies / "float8_e4m3fn", "full")
    assert all(isinstance(layer, nn.Linear) for _, layer in matrices(model))
    same_products(model, load(copies / "float8_e4m3fn", "cpu", "fp32"), 1e-6)


def test_a_plain_file_stays_plain_unless_fp8_is_asked_for(pack: SimpleNamespace) -> None:
    plain = held(pack, "janus-shapes")
    assert all(isinstance(layer, nn.Linear) for _, layer in matrices(plain))
    same_products(held(pack, "janus-shapes", "fp8"), plain, 0.04, least=0.01)


@pytest.mark.parametrize("name", COPIES)
def test_fp8_is_fp8_whatever_the_file_has(pack: SimpleNamespace, copies: Path, name: str) -> None:
    model = held(pack, copies / name, "fp8")
    for matrix, layer in matrices(model):
        for part, theirs in zip(layer.parts, in_the_file(copies / name, matrix), strict=True):
            assert part.weight.matrix.dtype == FP8
            if theirs.dtype == FP8:
                assert torch.equal(part.weight.matrix.view(torch.uint8), theirs.view(torch.uint8))
    same_products(model, load(copies / name, "cpu", "fp32"), 0.04)


def test_what_one_matrix_is_made_of_may_differ(pack: SimpleNamespace, tmp_path: Path) -> None:
    """Some tools leave layers out; and ComfyUI keeps no scales of rows in float8."""
    write_quantized(folder := tmp_path / "mixed", FP8)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if MATRIX.fullmatch(name)]:
        scale = f"{name}_scale"
        if "k_proj" in name:
            tensors[name] = tensors[name].float() * tensors.pop(scale)
            del tensors[name.removesuffix("weight") + "comfy_quant"]
        elif "v_proj" in name:
            tensors[scale] = tensors[scale].expand(len(tensors[name]), 1).contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = held(pack, folder)
    kept = [isinstance(part.weight, nn.Parameter) for part in model.decoder.layers[0].qkv.parts]
    assert kept == [False, True, True]
    same_products(model, load(folder, "cpu", "fp32"), 1e-6)


def test_float8_without_scales_stays_as_it_is(pack: SimpleNamespace, tmp_path: Path) -> None:
    write_quantized(folder := tmp_path / "bare", FP8)
    tensors = load_file(folder / "model.safetensors")
    bare = {name: own for name, own in tensors.items() if not name.endswith((".weight_scale", ".comfy_quant"))}
    # not as large as float8 can be, so that rounding them once more would change them
    bare |= {name: (own.float() / 3).to(FP8) for name, own in bare.items() if own.dtype == FP8}
    save_file(bare, folder / "model.safetensors", {"format": "pt"})
    plain = load(folder, "cpu", "fp32")
    for weights in ("auto", "fp8"):
        model = held(pack, folder, weights)
        assert model.decoder.layers[0].down.parts[0].weight.matrix.dtype == FP8
        same_products(model, plain, 1e-6)


def test_what_is_kept_is_not_the_file_s_own_memory(pack: SimpleNamespace, tmp_path: Path) -> None:
    write_quantized(folder := tmp_path / "copy", FP8)
    model, plain = held(pack, folder), load(folder, "cpu", "fp32")
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
    same_products(model, plain, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_processor_s_own_conversion_is_torch_s(pack: SimpleNamespace, dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8)
    codes = every[(every & 0x7F) != 0x7F].view(FP8).view(2, 127)  # but those that are no numbers
    scale = torch.tensor(0.25)
    found = pack.quantized.converted(quant_ops.QuantizedTensor(codes, scale, dtype))
    assert found.dtype == dtype
    assert torch.equal(found, codes.to(dtype) * scale.to(dtype))


@pytest.mark.usefixtures("forgetful")
def test_an_older_comfyui_reads_as_before(pack: SimpleNamespace, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(pack.quantized.comfy.ops, "mixed_precision_ops")
    assert pack.load.weights_here()[:2] == ["auto", "int8"]
    model = held(pack, copies / "float8_e4m3fn")
    assert all(isinstance(layer, nn.Linear) for _, layer in matrices(model))
    with pytest.raises(
        Exception, match=r"^fp8 weights do not work on cpu here \(.*; take others, or 'auto'\.$"
    ) as refusal:
        held(pack, copies / "float8_e4m3fn", "fp8")
    check_sentence(refusal.value)


@pytest.mark.usefixtures("forgetful")
def test_a_comfyui_that_knows_some_formats_keeps_these(
    pack: SimpleNamespace, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(quant_ops.LAYOUTS, "int8_tensorwise")
    assert isinstance(held(pack, copies / "int8_tensorwise").decoder.layers[0].qkv, nn.Linear)
    assert isinstance(held(pack, copies / "float8_e5m2").decoder.layers[0].qkv, pack.quantized.Quantized)
    assert pack.load.weights_here()[:4] == ["auto", "full", "fp8", "int8"]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_the_engine_s_small_layers_compute_where_their_input_is(pack: SimpleNamespace, weights: str) -> None:
    model = held(pack, "janus-shapes", weights)
    layer = model.decoder.layers[0].down
    x = torch.randn(3, layer.inputs, generator=torch.Generator().manual_seed(0))
    before = layer(x)
    pack.layers.adopt(model)
    assert isinstance(layer, pack.layers.MovedLinear)
    assert torch.equal(layer(x), before)
    given: list[str] = []

    def product(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
        given.extend(own.device.type for own in (x, weight, scales))
        return x

    layer.product = product
    layer(x.to("meta"))
    assert given == ["meta"] * 3
    assert layer.weight.device == CPU
    assert layer.lent == 0
