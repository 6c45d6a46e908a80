from __future__ import annotations

import pytest
import torch

from bench import kernel as command


def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="is timed on a GPU, and torch sees none here"):
        command.main([])


def test_janus_pro_has_its_published_sizes() -> None:
    geometry = command.geometry_of("Janus-Pro-7B")
    assert (geometry.layers, geometry.heads, geometry.kv_heads, geometry.head_dim) == (30, 32, 32, 128)
    assert geometry.tokens == 576
