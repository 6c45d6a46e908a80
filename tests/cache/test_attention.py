from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ssd_core.cache.attention import attend_slots


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 3])
def test_attention_is_torch_s_own(group: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    q, keys, values = (torch.randn(5, size, 8, generator=random).to(dtype) for size in (group, 7, 7))
    output = torch.empty_like(q)
    weights, answers = attend_slots(q, keys, values, output)
    assert answers is output
    expected = scaled_dot_product_attention(q.float(), keys.float(), values.float())
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=1e-5 if dtype is torch.float32 else 0.03)
    assert (output.dtype, weights.dtype, weights.shape) == (dtype, torch.float32, (5, group, 7))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, group))
    torch.testing.assert_close(
        weights @ values.float(), expected, rtol=0, atol=1e-5 if dtype is torch.float32 else 0.03
    )
