"""Whatever is wrong with a checkpoint is said in one sentence that names the file, and the tensor where it is one."""

from __future__ import annotations

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssd_core import UserError, load
from ssd_core.models.checkpoint import inspect, save_single_file
from tests.models.small import save_official, save_transformers

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4200000000\n"
WEIGHTS = {"transformers": "model.safetensors", "official": "pytorch_model.bin"}
Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    save_transformers(folder / "transformers")
    save_transformers(folder / "sharded", shard="100KB")
    save_official(folder / "official")
    save_official(folder / "official sharded", shards=2)
    return folder


def refusal(originals: Path, layout: str, tmp_path: Path, break_it: Break) -> str:
    """What is said of a checkpoint in this layout after something was done to its folder, whose path is left out."""
    folder = tmp_path / "broken"
    shutil.copytree(originals / layout, folder)
    break_it(folder)
    with pytest.raises(UserError) as error:
        load(folder, "cpu")
    sentence = str(error.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert sentence in inspect(folder).problems
    with pytest.raises(UserError):
        save_single_file(folder, tmp_path / "packed.safetensors")
    assert not list(tmp_path.glob("packed*"))
    return sentence.replace(str(tmp_path), "")


def config(**changes: Any) -> Break:
    """Change config.json; in a section if it is called section__key."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        for path, value in changes.items():
            *sections, key = path.split("__")
            place = content
            for section in sections:
                place = place[section]
            place[key] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def tensors(change: Callable[[dict[str, Tensor]], Any]) -> Break:
    """Change the tensors of a single file."""

    def rewrite(folder: Path) -> None:
        if (folder / WEIGHTS["official"]).exists():
            torch.save(change(torch.load(folder / WEIGHTS["official"])), folder / WEIGHTS["official"])
        else:
            save_file(change(load_file(folder / WEIGHTS["transformers"])), folder / WEIGHTS["transformers"])

    return rewrite


def without(*names: str) -> Break:
    return tensors(lambda own: {name: tensor for name, tensor in own.items() if name not in names})


def added(name: str, tensor: Tensor) -> Break:
    return tensors(lambda own: own | {name: tensor})


def put(file: str, content: str | bytes) -> Break:
    def write(folder: Path) -> None:
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def cut(file: str, share: float) -> Break:
    def shorten(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return shorten


def remove(pattern: str) -> Break:
    def unlink(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return unlink


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this ran",)


FILES: list[tuple[str, Break, str]] = [
    ("transformers", remove("config.json"), r"/broken has no config\.json; download the whole folder"),
    ("transformers", remove("tokenizer.json"), r"/broken has no tokenizer\.json; download the whole folder"),
    (
        "official",
        remove("*.bin"),
        r"/broken holds no weights, neither model\.safetensors\.index\.json nor .*\.bin; down",
    ),
    (
        "sharded",
        remove("model-00002-*"),
        r"/model-00002-of-\d+\.safetensors is not there, .* absent, 1 of \d+ files\.",
    ),
    (
        "official sharded",
        remove("*-of-*"),
        r"/pytorch_model-00001-of-00002\.bin is not there, .* absent, 2 of 2 files\.",
    ),
    ("sharded", put("model.safetensors.index.json", "{}"), r"index\.json is not an index of weights"),
    ("sharded", put("model.safetensors.index.json", "{"), r"index\.json is not JSON"),
    (
        "sharded",
        put("model.safetensors.index.json", '{"weight_map": {"a": 1}}'),
        r"index\.json is not an index of weights",
    ),
    ("transformers", put("config.json", "[1]"), r"config\.json is not a JSON object"),
    ("transformers", put("config.json", '{"model_type": '), r"config\.json is not JSON \("),
    ("transformers", put("config.json", b"\xff\xfe\x00"), r"config\.json is damaged"),
    ("transformers", put("config.json", POINTER), r"config\.json is only a git-lfs pointer .* `git lfs pull`"),
    ("transformers", put("tokenizer.json", POINTER), r"tokenizer\.json is only a git-lfs pointer"),
    ("transformers", put("model.safetensors", POINTER), r"model\.safetensors is only a git-lfs pointer"),
    ("official", put("pytorch_model.bin", POINTER), r"pytorch_model\.bin is only a git-lfs pointer"),
    ("transformers", put("model.safetensors", b""), r"model\.safetensors is damaged, incomplete or of an unknown"),
    ("transformers", cut("model.safetensors", 0.5), r"model\.safetensors is damaged, incomplete or of an unknown"),
    ("transformers", put("model.safetensors", b"\x08" + b"x" * 90), r"model\.safetensors is damaged, incomplete or"),
    ("official", put("pytorch_model.bin", b""), r"pytorch_model\.bin is damaged, incomplete or of an unknown format"),
    ("official", cut("pytorch_model.bin", 0.5), r"pytorch_model\.bin is damaged, incomplete or of an unknown format"),
    ("official", put("pytorch_model.bin", b"<html>Not found</html>"), r"pytorch_model\.bin is damaged, incomplete or"),
    ("official", put("pytorch_model.bin", pickle.dumps(Malicious())), r"pytorch_model\.bin is damaged"),
    ("official", tensors(lambda own: {"a": Malicious()}), r"pytorch_model\.bin is damaged or holds more than tensors"),
    (
        "official",
        tensors(lambda own: {"state_dict": own}),
        r"pytorch_model\.bin does not hold a plain table of tensors",
    ),
    ("official", tensors(lambda own: {1: torch.ones(1)}), r"pytorch_model\.bin does not hold a plain table of tensors"),
    ("official", tensors(lambda own: [*own.values()]), r"pytorch_model\.bin does not hold a plain table of tensors"),
]
CONFIGURATIONS: list[tuple[str, Break, str]] = [
    ("transformers", config(model_type="t5"), r"config\.json describes a model of type 't5', not a Janus"),
    ("transformers", config(model_type=None), r"config\.json describes a model of type None, not a Janus"),
    ("official", config(model_type="llama"), r"config\.json describes a model of type 'llama', not a Janus"),
    ("official", config(vision_gen_enc_config={}), r"config\.json describes a JanusFlow, .* take a Janus-Pro"),
    ("transformers", config(quantization_config={"bits": 4}), r"config\.json describes a quantized copy"),
    ("transformers", config(text_config__model_type="qwen2"), r"asks for the language model 'qwen2', but only 'llama'"),
    ("official", config(language_config__hidden_act="gelu"), r"asks for the activation 'gelu', but only 'silu'"),
    (
        "official",
        config(language_config__rope_scaling={"type": "linear", "factor": 2.0}),
        r"asks for the rotary embedding 'linear', but only 'default'",
    ),
    ("transformers", config(text_config__rope_parameters={"rope_type": "llama3"}), r"rotary embedding 'llama3'"),
    ("transformers", config(text_config__num_hidden_layers="2"), r"config\.json gives num_hidden_layers as '2', where"),
    ("official", config(language_config__hidden_size=-32), r"config\.json gives hidden_size as -32, where a positive"),
    (
        "official",
        config(language_config=[1]),
        r"config\.json gives language_config as \[1\], where a table is expected",
    ),
    ("official", config(vision_config__params__image_size=None), r"config\.json gives image_size as None"),
    (
        "official",
        config(vision_config__params__image_size=9),
        r"gives image_size as 9, which is no multiple of the 2 pixels of a token",
    ),
    ("official", config(language_config__rms_norm_eps="x"), r"config\.json gives rms_norm_eps as 'x'"),
]
LAYER = "language_model.model.layers.1."
WEIGHTS_OF_ANOTHER: list[tuple[str, Break, str]] = [
    (
        "transformers",
        tensors(lambda own: {"encoder.block.0.layer.0.SelfAttention.k.weight": torch.ones(4, 4)}),
        r"/broken holds no decoder of a Janus, .* its first tensor is encoder\.block\.0",
    ),
    (
        "official",
        tensors(lambda own: {"model.layers.0.self_attn.q_proj.weight": torch.ones(4, 4)}),
        r"/broken holds no decoder of a Janus, .* its first tensor is model\.layers\.0\.self_attn",
    ),
    (
        "transformers",
        tensors(lambda own: {}),
        r"/broken holds no decoder of a Janus, so it is another model's, or a part of",
    ),
    (
        "official",
        without(LAYER + "self_attn.k_proj.weight"),
        r"/broken lacks the tensor .*1\.self_attn\.k_proj\.weight, exp",
    ),
    ("official", without("gen_embed.weight"), r"/broken lacks the tensor gen_embed\.weight"),
    (
        "official",
        without("gen_head.vision_head.bias"),
        r"/broken lacks the tensor gen_head\.vision_head\.bias, .* \[48\]",
    ),
    ("official", without("gen_aligner.layers.2.weight"), r"/broken lacks the tensor gen_aligner\.layers\.2\.weight"),
    (
        "official",
        without("gen_vision_model.decoder.conv_blocks.1.res.0.conv1.weight"),
        r"/broken lacks the tensor gen_vision_model\.decoder\.conv_blocks\.1\.res\.0\.conv1\.weight",
    ),
    (
        "transformers",
        without("model.language_model.embed_tokens.weight"),
        r"/broken lacks the tensor .*embed_tokens\.weight",
    ),
    (
        "transformers",
        without("model.vqmodel.quant_conv.bias"),
        r"/broken lacks the tensor model\.vqmodel\.quant_conv\.bias",
    ),
    (
        "transformers",
        added("model.language_model.norm.weight", torch.ones(31)),
        r"model\.safetensors holds the tensor model\.language_model\.norm\.weight in the shape \[31\], where \[32\] is",
    ),
    (
        "official",
        added(LAYER + "mlp.up_proj.weight", torch.ones(32, 40)),
        r"pytorch_model\.bin holds the tensor .*1\.mlp\.up_proj\.weight in the shape \[32, 40\], where \[40, 32\] is",
    ),
    (
        "official",
        added("gen_embed.weight", torch.ones(48)),
        r"gen_embed\.weight in the shape \[48\], where one of 2 dim",
    ),
    ("official", added("gen_embed.weight", torch.ones(0, 8)), r"gen_embed\.weight in the shape \[0, 8\], where"),
    (
        "official",
        added("gen_vision_model.encoder.conv_in.weight", torch.ones(33, 3, 3, 3)),
        r"/broken holds a picture codec whose tensors do not fit together \(",
    ),
    (
        "official",
        added("gen_embed.weight", torch.ones(48, 8, dtype=torch.int8)),
        r"gen_embed\.weight as torch\.int8, where floating point is expected",
    ),
    (
        "official",
        added(LAYER + "self_attn.q_proj.bias", torch.ones(32)),
        r"pytorch_model\.bin holds the tensor .*q_proj\.bias, which a Janus of its config\.json's sizes does not",
    ),
    (
        "transformers",
        config(text_config__num_hidden_layers=1),
        r"model\.safetensors holds the tensor .*layers\.1\..*, which",
    ),
    (
        "transformers",
        config(text_config__num_hidden_layers=3),
        r"/broken lacks the tensor model\.language_model\.layers\.2\.",
    ),
    ("transformers", put("tokenizer.json", "{}"), r"tokenizer\.json is not a tokenizer that can be read"),
]


@pytest.mark.parametrize(("layout", "break_it", "said"), [*FILES, *CONFIGURATIONS, *WEIGHTS_OF_ANOTHER])
def test_refused(originals: Path, layout: str, tmp_path: Path, break_it: Break, said: str) -> None:
    assert re.search(said, sentence := refusal(originals, layout, tmp_path, break_it)), sentence


def test_a_tokenizer_of_another_model_is_refused(originals: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((originals / "official" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {f"more {number}": 381 + number for number in range(10)}
    said = refusal(originals, "official", tmp_path, put("tokenizer.json", json.dumps(tokenizer)))
    assert re.search(r"tokenizer\.json has 391 ids, but the model embeds 384; take the tokenizer", said)


@pytest.mark.parametrize("path", ["no/such/folder", "deepseek-ai/Janus-Pro-7B", "janus-shape", ""])
def test_a_path_where_nothing_is(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for read in (load, inspect):
        with pytest.raises(UserError, match=r"does not exist; give a folder or a file with a Janus \(nothing is downl"):
            read(path or "~nobody")


def test_files_that_are_no_checkpoint(originals: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is not a file of weights; give a \.safetensors or \.bin file"):
        load(originals / "official" / "config.json", "cpu")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(originals / "transformers" / "model.safetensors", alone)
    with pytest.raises(UserError, match=r"has no config\.json; download the whole folder"):
        load(alone, "cpu")


def test_nothing_in_a_pickle_runs(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal(originals, "official", tmp_path, tensors(lambda own: own | {"a": Malicious()}))
    assert "this ran" not in capsys.readouterr().out
