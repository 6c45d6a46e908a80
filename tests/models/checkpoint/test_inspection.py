from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssd_core.models.base import Geometry
from ssd_core.models.checkpoint import Part, inspect
from tests.models.small import LAYOUTS, SIZES, save_layout, save_official, save_transformers, transformers_janus

GEOMETRY = Geometry(layers=2, heads=4, kv_heads=2, head_dim=8, rows=4, columns=4, codebook=48)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_whole_checkpoint(layout: str, tmp_path: Path) -> None:
    path = save_layout(layout, tmp_path / "model", SIZES["grouped queries"])
    found = inspect(path)
    official = layout.startswith("official")
    assert found.problems == []
    assert found.path == path
    assert found.geometry == GEOMETRY
    assert found.dtype == "float32"
    assert found.ids == 381
    assert found.layout == ("single file" if "single" in layout else "official" if official else "transformers")
    assert found.family == ("multi_modality" if "official" in layout else "janus")
    statistics = 48 * 4 if official else 0
    assert found.bytes == statistics + sum(part.bytes for part in (found.parts | found.unneeded).values())
    assert found.parts["prompt embeddings"] == Part(1, 384 * 32 * 4, ())
    assert found.parts["decoder"].tensors == 2 * 9 + 1
    assert found.parts["image embeddings"].tensors == 5
    assert found.parts["image head"].tensors == 4
    assert found.parts["picture codec"].tensors == len(transformers_janus().model.vqmodel.state_dict())
    assert all(part.missing == () for part in found.parts.values())
    assert any(part.tensors for part in found.unneeded.values()) != ("single" in layout)


def test_an_absent_shard_is_named_and_what_it_held_is_missing(tmp_path: Path) -> None:
    folder = save_official(tmp_path, shards=2)
    whole, shard = inspect(folder), folder / "pytorch_model-00002-of-00002.bin"
    held = set(torch.load(shard))
    shard.unlink()
    found = inspect(folder)
    assert "pytorch_model-00002-of-00002.bin is not there" in found.problems[0]
    assert 0 < found.bytes < whole.bytes
    for name, part in found.parts.items():
        assert part.missing is not None
        assert part.tensors + len(part.missing) == whole.parts[name].tensors
        assert held.issuperset(part.missing)


def test_missing_tensors_are_counted_with_their_part(tmp_path: Path) -> None:
    folder = save_official(tmp_path)
    tensors = torch.load(folder / "pytorch_model.bin")
    for name in ("gen_head.vision_head.bias", "language_model.model.layers.0.self_attn.k_proj.weight"):
        del tensors[name]
    torch.save(tensors, folder / "pytorch_model.bin")
    found = inspect(folder)
    assert found.geometry
    assert found.parts["image head"].missing == ("gen_head.vision_head.bias",)
    assert found.parts["decoder"].missing == ("language_model.model.layers.0.self_attn.k_proj.weight",)
    assert found.parts["picture codec"].missing == ()
    assert len(found.problems) == 1


def test_where_a_part_is_gone_what_should_be_there_is_unknown(tmp_path: Path) -> None:
    folder = save_official(tmp_path)
    tensors = torch.load(folder / "pytorch_model.bin")
    torch.save({name: own for name, own in tensors.items() if "gen_vision" not in name}, folder / "pytorch_model.bin")
    found = inspect(folder)
    assert found.geometry is None
    assert found.parts["picture codec"] == Part(0, 0, None)
    assert "lacks the tensor gen_vision_model." in found.problems[0]


def test_only_a_tokenizer_is_absent(tmp_path: Path) -> None:
    (save_transformers(tmp_path) / "tokenizer.json").unlink()
    found = inspect(tmp_path)
    assert found.ids is None
    assert len(found.problems) == 1
    assert "has no tokenizer.json" in found.problems[0]
    assert found.parts["decoder"].tensors == 19


def test_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    found = inspect(tmp_path)
    assert found.family == "t5"
    assert any("describes a model of type 't5'" in problem for problem in found.problems)
    assert any("holds no weights" in problem for problem in found.problems)
    assert found.parts == {}
