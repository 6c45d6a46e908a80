"""Files that keep matrices in 8 bits with scales, as ComfyUI's own loaders read them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd_core import UserError, load
from ssd_core.models.checkpoint import inspect, save_single_file
from tests.models.small import save_transformers
from tests.table import check_sentence

MATRIX = re.compile(r"model\.language_model\.layers\..*_proj\.weight")
Kept = dict[str, Tensor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("janus"))


def text(value: object) -> Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def mixed_precision(layer: str, matrix: Tensor) -> Kept:
    scale = matrix.abs().amax() / 448
    about = {
        ".weight_scale": scale,
        ".input_scale": torch.ones(()),
        ".comfy_quant": text({"format": "float8_e4m3fn"}),
    }
    return {layer + name: tensor for name, tensor in about.items()} | {
        layer + ".weight": (matrix / scale).to(torch.float8_e4m3fn)
    }


def scaled_fp8(layer: str, matrix: Tensor) -> Kept:
    scale = matrix.abs().amax().view(1) / 57344
    return {
        "scaled_fp8": torch.zeros(0, dtype=torch.float8_e5m2),
        layer + ".scale_weight": scale,
        layer + ".scale_input": torch.ones(1),
        layer + ".weight": (matrix / scale).to(torch.float8_e5m2),
    }


def rows_in_int8(layer: str, matrix: Tensor) -> Kept:
    scale = matrix.abs().amax(1, keepdim=True) / 127
    return {
        layer + ".weight_scale": scale,
        layer + ".comfy_quant": text({"format": "int8_tensorwise"}),
        layer + ".weight": (matrix / scale).round().to(torch.int8),
    }


def rewrite(original: Path, folder: Path, keep: Callable[[str, Tensor], Kept]) -> Path:
    """A copy of the model with its decoder's matrices kept so."""
    tensors = load_file(original / "model.safetensors")
    for name in [name for name in tensors if MATRIX.fullmatch(name)]:
        tensors |= keep(name.removesuffix(".weight"), tensors.pop(name))
    folder.mkdir()
    for file in original.glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("keep", "error"),
    [(mixed_precision, 0.04), (scaled_fp8, 0.08), (rows_in_int8, 0.01)],
    ids=lambda given: getattr(given, "__name__", None),
)
def test_matrices_come_with_their_scales(
    original: Path, tmp_path: Path, keep: Callable[[str, Tensor], Kept], error: float
) -> None:
    folder = rewrite(original, tmp_path / "small", keep)
    assert not inspect(folder).problems
    for weights in ("auto", "int8"):
        plain, own = (load(path, "cpu", weights=weights) for path in (original, folder))
        x = torch.randn(2, plain.shape.decoder.hidden, generator=torch.Generator().manual_seed(0))
        layers: Any = zip(plain.decoder.layers, own.decoder.layers, strict=True)
        for one, other in layers:
            exact = one.gate_up(x)
            assert 1e-4 < float((other.gate_up(x) - exact).norm() / exact.norm()) < error + 0.01
        assert torch.equal(plain.head.logits.weight, own.head.logits.weight)


def test_what_is_not_a_matrix_of_ours_is_refused(original: Path, tmp_path: Path) -> None:
    folder = rewrite(original, tmp_path / "small", lambda layer, matrix: {layer + ".weight": matrix})
    tensors = load_file(folder / "model.safetensors") | {"model.language_model.other.weight_scale": torch.ones(())}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"holds the tensor model\.language_model\.other\.weight_scale"):
        load(folder, "cpu")


@pytest.mark.parametrize(
    ("about", "said"),
    [({"format": "nvfp4"}, "as nvfp4, which"), ({"format": "int8_tensorwise", "convrot": True}, "rotated, which")],
)
def test_other_formats_are_refused(original: Path, tmp_path: Path, about: dict[str, object], said: str) -> None:
    def keep(layer: str, matrix: Tensor) -> Kept:
        return rows_in_int8(layer, matrix) | {layer + ".comfy_quant": text(about)}

    folder = rewrite(original, tmp_path / "small", keep)
    with pytest.raises(UserError, match=said) as refusal:
        load(folder, "cpu")
    check_sentence(refusal.value)
    assert str(refusal.value) in inspect(folder).problems


def test_a_format_in_the_metadata_is_refused_as_well(original: Path, tmp_path: Path) -> None:
    save_single_file(original, packed := tmp_path / "packed.safetensors")
    whole = {"config": (original / "config.json").read_text(), "tokenizer": (original / "tokenizer.json").read_text()}
    layers = {"layers": {"model.language_model.layers.0.mlp.up_proj": {"format": "mxfp8"}}}
    save_file(load_file(packed), packed, whole | {"_quantization_metadata": json.dumps(layers)})
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj as mxfp8, which"):
        load(packed, "cpu")


@pytest.mark.parametrize("scale", [torch.ones(3), None], ids=["of another shape", "without"])
def test_bytes_without_a_fitting_scale_are_refused(original: Path, tmp_path: Path, scale: Tensor | None) -> None:
    def keep(layer: str, matrix: Tensor) -> Kept:
        scales = {} if scale is None else {layer + ".weight_scale": scale.clone()}
        return scales | {layer + ".weight": torch.ones_like(matrix, dtype=torch.int8)}

    with pytest.raises(UserError, match=r"torch\.int8") as refusal:
        load(rewrite(original, tmp_path / "small", keep), "cpu")
    check_sentence(refusal.value)
