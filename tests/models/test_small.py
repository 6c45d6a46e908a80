"""The decoder's matrices in fewer bits: close to what they were, as small as said, and nothing else touched."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from ssd_core import SSD, UserError, generate, load, plan
from ssd_core.memory import module_bytes
from ssd_core.models.known import known
from ssd_core.models.small import SmallLinear, check_weights, choice, nf4, possible_weights
from ssd_core.models.small.choice import SMALL
from ssd_core.models.small.shrink import LINEAR
from tests.models.small import save_official, save_transformers
from tests.table import check_sentence
from tests.tiny import random_map

CPU = torch.device("cpu")
needs_bitsandbytes = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
EACH = [pytest.param(name, marks=needs_bitsandbytes if kind.LIBRARY else ()) for name, kind in SMALL.items()]
ERROR = {"int8": 0.012, "int4": 0.12, "nf4": 0.12}
BITS = {"int8": 8, "int4": 4.5, "nf4": 4.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_transformers(tmp_path_factory.mktemp("janus"))


@pytest.fixture
def forgetful() -> Iterator[None]:
    """What was found out of this machine is forgotten before and after."""
    choice.refusal.cache_clear()
    nf4.library.cache_clear()
    yield
    choice.refusal.cache_clear()
    nf4.library.cache_clear()


def layer(weights: str, inputs: int, outputs: int, matrix: torch.Tensor) -> SmallLinear:
    made = SMALL[weights](inputs, outputs, "cpu", torch.float32).to_empty(device=CPU)
    made.take([matrix], CPU)
    return made


@pytest.mark.parametrize("rows", [1, 2, 17, 70])
@pytest.mark.parametrize(("inputs", "outputs"), [(256, 64), (32, 96), (40, 30), (528, 192)])
@pytest.mark.parametrize("weights", EACH)
def test_a_product_is_close_to_that_of_the_matrix(weights: str, inputs: int, outputs: int, rows: int) -> None:
    random = torch.Generator().manual_seed(inputs + rows)
    matrix = torch.randn(outputs, inputs, generator=random) * torch.rand(outputs, 1, generator=random)
    x = torch.randn(rows, inputs, generator=random)
    exact, product = x @ matrix.T, layer(weights, inputs, outputs, matrix)(x)
    assert (product.shape, product.dtype) == (exact.shape, exact.dtype)
    assert 1e-4 < float((product - exact).norm() / exact.norm()) < ERROR[weights]


@pytest.mark.parametrize("weights", EACH)
def test_each_row_is_rounded_by_its_own_size(weights: str) -> None:
    matrix = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2, 64)[:, None]
    product = layer(weights, 64, 64, matrix)(torch.eye(64)).T
    assert float(((product - matrix).norm(dim=1) / matrix.norm(dim=1)).max()) < 2 * ERROR[weights]


@pytest.mark.parametrize("weights", EACH)
def test_zeros_stay_zeros(weights: str) -> None:
    product = layer(weights, 64, 32, torch.zeros(32, 64))(torch.ones(3, 64))
    assert torch.equal(product, torch.zeros(3, 32))


@pytest.mark.parametrize("weights", EACH)
def test_only_the_decoder_s_matrices_are_small(folder: Path, weights: str) -> None:
    plain, small = load(folder, "cpu"), load(folder, "cpu", weights=weights)
    assert (plain.weights, small.weights) == ("auto", weights)
    theirs = {name: tensor for name, tensor in plain.state_dict().items() if not name.endswith(matrices())}
    ours = small.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    assert {name.rsplit(".", 1)[0] for name in ours if name not in theirs} == {
        name.rsplit(".", 1)[0] for name in plain.state_dict() if name not in theirs
    }
    x = torch.randn(3, plain.shape.decoder.hidden, generator=torch.Generator().manual_seed(0))
    layers: Any = zip(plain.decoder.layers, small.decoder.layers, strict=True)
    for own, other in layers:
        exact, product = own.qkv(x), other.qkv(x)
        # each of q, k and v, which come from tensors of their own
        for one, two in zip(exact.chunk(3, 1), product.chunk(3, 1), strict=True):
            assert float((one - two).norm() / one.norm()) < ERROR[weights]
    assert not any(parameter.requires_grad for parameter in small.parameters())


def matrices() -> tuple[str, ...]:
    return tuple(f".{name}.weight" for name in LINEAR)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("weights", EACH)
def test_it_draws_and_a_plan_counts_what_it_holds(folder: Path, weights: str, dtype: str) -> None:
    model = load(folder, "cpu", dtype, weights=weights)
    policy = SSD(0.9, head_map=random_map(model.geometry))
    drawn = generate(model, ["a red circle"], policy, images_per_prompt=2)
    assert drawn.tokens.min() >= 0
    assert drawn.memory == plan(load(folder, "cpu", dtype, weights=weights), policy, 2, "a red circle")
    assert drawn.memory.weights_bytes == module_bytes(model)


@pytest.mark.parametrize("weights", SMALL)
def test_bits_a_number_at_janus_pro_s_size(weights: str) -> None:
    """For a GPU that need not be there, and without any library."""
    plain = known("Janus-Pro-1B", torch.bfloat16, torch.bfloat16)
    small = known("Janus-Pro-1B", torch.bfloat16, torch.bfloat16)
    small.shrink(weights, "cuda")
    numbers = sum(getattr(layer, name).weight.numel() for layer in plain.decoder.layers for name in LINEAR)
    saved = plan(plain).weights_bytes - plan(small).weights_bytes
    assert 16 - 8 * saved / numbers == pytest.approx(BITS[weights], abs=0.02)
    assert plan(small).kv_bytes == plan(plain).kv_bytes


def test_others_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="auto, int8, int4, nf4, not in 'int2'") as refusal:
        load(folder, "cpu", weights="int2")
    check_sentence(refusal.value)


@pytest.mark.usefixtures("forgetful")
def test_a_missing_library_is_told_with_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match="not installed; run: pip install bitsandbytes"):
        load(folder, "cpu", weights="nf4")
    assert possible_weights(CPU, torch.float32) == ["auto", "int8", "int4"]


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize("wrong", [False, True], ids=["no such operator", "another result"])
def test_what_a_device_cannot_do_is_not_offered(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    def product(x: torch.Tensor, matrix: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        if wrong:
            return x.new_zeros(len(x), len(matrix))
        raise NotImplementedError("none here")

    monkeypatch.setattr(torch, "_weight_int8pack_mm", product)
    assert "int8" not in possible_weights(CPU, torch.float32)
    with pytest.raises(UserError, match="wrong results on cpu" if wrong else r"do not work on cpu here \(none here\)"):
        check_weights("int8", CPU, torch.float32)


@needs_bitsandbytes
@pytest.mark.usefixtures("forgetful")
def test_importing_bitsandbytes_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take the package `kernels`, if there were one, and ask the Hub."""
    fetching = type(sys)("kernels")
    monkeypatch.setitem(sys.modules, "kernels", fetching)
    with nf4.offline(), pytest.raises(ImportError):
        import kernels  # type: ignore[import-not-found]  # noqa: F401
    assert sys.modules["kernels"] is fetching


def test_official_files_give_the_same_small_model(folder: Path, tmp_path: Path) -> None:
    one, other = load(folder, "cpu", weights="int8"), load(save_official(tmp_path), "cpu", weights="int8")
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
