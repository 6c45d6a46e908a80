from __future__ import annotations

import pytest
import torch
from torch import nn

from ssd_core.models import few_rows
from ssd_core.models.placement import choose_ops


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 8), (15, 8), (16, 8), (17, 8), (64, 8), (80, 8), (2, 3, 8)])
def test_linear_is_torch_s_own(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours, theirs = few_rows.Linear(8, 5, bias=bias), nn.Linear(8, 5, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    got = ours(x)
    torch.testing.assert_close(got, theirs(x))
    in_columns = len(shape) == 2 and shape[0] in (16, 64)
    assert (got.t() if in_columns else got).is_contiguous()
    torch.testing.assert_close(ours(x.mT.contiguous().mT) if x.ndim > 1 else got, theirs(x))


@pytest.mark.parametrize("rows", [1, 2, 16, 17, 64])
def test_a_sum_with_a_linear_layer_is_torch_s_own(rows: int) -> None:
    torch.manual_seed(0)
    linear, x, to = few_rows.Linear(8, 5, bias=False), torch.randn(rows, 8), torch.randn(rows, 5)
    expected = to + nn.functional.linear(x, linear.weight)
    for given in (to.clone(), to.t().contiguous().t()):
        torch.testing.assert_close(few_rows.add_linear(linear, x, given), expected)
        assert given.equal(to)


@pytest.mark.parametrize("size", [1.0, 1e-3, 0.0])
def test_norm_is_torch_s_own(size: float) -> None:
    torch.manual_seed(0)
    ours, theirs = few_rows.RMSNorm(8, eps=1e-6), nn.RMSNorm(8, eps=1e-6)
    for norm in (ours, theirs):
        norm.weight.data = torch.arange(8.0)
    x = size * torch.randn(3, 8)  # at 1e-3 eps is half of what is under the root
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 64, 80])
def test_in_bfloat16_they_are_torch_s_own_but_for_rounding(rows: int) -> None:
    torch.manual_seed(0)
    x, to = torch.randn(rows, 64).bfloat16(), torch.randn(rows, 32).bfloat16()
    ours, norm = few_rows.Linear(64, 32, bias=False, dtype=torch.bfloat16), few_rows.RMSNorm(64, eps=1e-6)
    exact = x.float() @ ours.weight.float().t()
    torch.testing.assert_close(ours(x).float(), exact, rtol=0.01, atol=0.01)
    assert ours(x).is_contiguous() != (rows in (16, 64))
    assert few_rows.as_columns(x) == (rows in (16, 64))  # the others gain nothing by it
    torch.testing.assert_close(few_rows.add_linear(ours, x, to).float(), to.float() + exact, rtol=0.02, atol=0.02)
    norm = norm.bfloat16()
    root = x.float().pow(2).mean(1, keepdim=True).sqrt()
    assert (norm(x).float() / (x.float() / root) - 1).abs().max() < 2**-8  # one rounding, and none of the root


def test_they_are_for_the_processor() -> None:
    assert choose_ops(torch.device("cpu"), torch.float32) is few_rows
    assert choose_ops(torch.device("cpu"), torch.bfloat16) is few_rows
    assert choose_ops(torch.device("cpu"), torch.float16) is nn
    assert choose_ops(torch.device("meta"), torch.float32) is nn
