"""Every node against stand-ins for ComfyUI."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ssd_core.heads import HeadMap
from ssd_core.loop import GREY
from ssd_core.memory import decoding_bytes
from ssd_core.pictures import mosaic, to_pil
from ssd_core.policies import METHODS
from ssd_core.words import human
from tests.nodes import stand_in
from tests.nodes.running import run
from tests.table import check_sentence
from tests.tiny import TinyModel, random_map


def test_nodes_say_what_they_are(comfy: SimpleNamespace) -> None:
    for name, node in comfy.nodes.items():
        parts = node.define_schema().parts
        assert name.startswith("SSDJanus")
        assert parts["category"] == "SSD Janus"
        assert parts["description"]
        assert parts["search_aliases"]


def test_models_are_found_and_nothing_outside_their_folders(comfy: SimpleNamespace) -> None:
    load = comfy.nodes["SSDJanusLoad"]
    [choice, *_] = load.define_schema().inputs
    assert choice.options["options"] == [
        "janus-shapes",
        "mine-janus",
        "mine-Janus-Pro",
        "download Janus-Pro-1B",
        "download Janus-Pro-7B",
    ]
    for name in ("../secret", "secret", "/etc", ""):
        with pytest.raises(Exception, match="There is no model") as caught:
            load.execute(name, "auto")
        assert type(caught.value).__name__ == "UserError"


@pytest.mark.parametrize("name", ["janus-shapes", "mine-Janus-Pro"])
@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp32", torch.float32)]
)
def test_a_model_is_loaded_in_the_precision_asked_for(
    comfy: SimpleNamespace, name: str, precision: str, dtype: torch.dtype
) -> None:
    [own] = comfy.nodes["SSDJanusLoad"].execute(name, precision).args
    assert own.model.dtype == dtype
    assert own.model.name == name
    kept = {name for name, part in own.model.named_children() if part not in own.patcher.model.children()}
    assert kept == {"text"}  # the rest is ComfyUI's to move


@pytest.mark.parametrize("able", [True, False])
def test_on_the_processor_bf16_is_taken_where_the_file_has_it(
    comfy: SimpleNamespace, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("nodes.held", "ssd_core.models.checkpoint.files", "ssd_core.models.placement")
    held, files, placement = (sys.modules[f"{stand_in.PACK}.{name}"] for name in names)
    monkeypatch.setattr(placement, "computes_in_bfloat16", lambda _: able)
    monkeypatch.setattr(files.Checkpoint, "dtype", torch.bfloat16)
    for precision, dtype in {"auto": torch.bfloat16 if able else torch.float32, "fp32": torch.float32}.items():
        assert held.Held("janus-shapes", precision).model.dtype == dtype


def test_weights_are_listed_if_they_work_here(comfy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need a library are there where it is, and tried when they are chosen."""
    load = comfy.nodes["SSDJanusLoad"]

    def listed() -> list[str]:
        [own] = [given for given in load.define_schema().inputs if given.id == "weights"]
        options: list[str] = own.options["options"]
        return options

    untried = ["nf4"] if find_spec("bitsandbytes") else []
    works = ["full", "fp8", "int8", "int4", *untried]
    assert listed() == ["auto", *works]
    for weights in works:
        [own] = load.execute("janus-shapes", "fp32", weights).args
        assert own.model.weights == weights
        assert own.model.decoder.layers[0].qkv in own.patcher.model.modules()
    monkeypatch.setattr(comfy.management, "get_torch_device", lambda: torch.device("meta"))
    assert listed() == ["auto", *untried]  # nothing is computed there


def test_a_model_computes_where_comfyui_does_whatever_lies_elsewhere(
    comfy: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = torch.device("meta")
    monkeypatch.setattr(comfy.management, "get_torch_device", lambda: card)
    [own] = comfy.nodes["SSDJanusLoad"].execute("janus-shapes", "fp32").args
    assert {part.device.type for part in own.model.parameters()} == {"cpu"}
    assert own.model.device == own.patcher.load_device == card
    assert own.model.embed_text(torch.tensor([[0, 1]])).device == card
    for precision, dtype in {"bf16": torch.bfloat16, "fp16": torch.float32}.items():  # pictures that do not overflow
        [own] = comfy.nodes["SSDJanusLoad"].execute("janus-shapes", precision).args
        assert own.model.codec.post_quant_conv.weight.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_method_s_widgets_hold_its_own_defaults(comfy: SimpleNamespace, method: str) -> None:
    compression = comfy.nodes["SSDJanusCompression"]
    [choice] = [own for own in compression.define_schema().inputs if own.id == "method"]
    [option] = [option for option in choice.options["options"] if option.key == method]
    given = {inner.id: inner.options["default"] for inner in option.inputs}
    assert {*given, "head_map"} >= {field.name for field in fields(METHODS[method])} >= set(given)  # type: ignore[arg-type]
    [policy] = compression.execute({"method": method, **given}).args
    own: Any = METHODS[method]()
    assert {name: getattr(policy, name) for name in given} == {name: getattr(own, name) for name in given}


def test_a_count_is_a_number_and_what_may_be_a_share_or_a_word_is_text(comfy: SimpleNamespace) -> None:
    [method] = [own for own in comfy.nodes["SSDJanusCompression"].define_schema().inputs if own.id == "method"]
    widgets = {own.id: own for option in method.options["options"] for own in option.inputs}
    assert widgets["sinks"].kind == "Int"
    assert widgets["sinks"].options["min"] == 0
    assert {widgets[name].kind for name in ("budget", "refresh", "recent", "half_life")} == {"String"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("budget", "0.3", 0.3),
        ("budget", " 115 ", 115),
        ("refresh", "row", "row"),
        ("refresh", "4", 4),
        ("tau", 0.5, 0.5),
        ("recent", "7", 7),
        ("half_life", "0.5", 0.5),
        ("pin_prompt", "no", False),
        ("pin_prompt", "yes", True),
        ("literal", True, True),
    ],
)
def test_widgets_set_the_policy(comfy: SimpleNamespace, name: str, text: Any, value: Any) -> None:
    [policy] = comfy.nodes["SSDJanusCompression"].execute({"method": "ssd", name: text}).args
    assert getattr(policy, name) == value
    assert type(getattr(policy, name)) is type(value)


@pytest.mark.parametrize(("name", "text"), [("budget", "much"), ("budget", "1.5"), ("refresh", "0"), ("recent", "-1")])
def test_what_a_policy_cannot_be_is_refused(comfy: SimpleNamespace, name: str, text: str) -> None:
    with pytest.raises(Exception, match=name) as caught:
        comfy.nodes["SSDJanusCompression"].execute({"method": "ssd", name: text})
    assert type(caught.value).__name__ == "UserError"


def window(comfy: SimpleNamespace, budget: str = "9") -> Any:
    return comfy.nodes["SSDJanusCompression"].execute({"method": "window", "budget": budget}).args[0]


def test_compression_shows_slots_and_bytes(comfy: SimpleNamespace, held: Any) -> None:
    node = comfy.nodes["SSDJanusCompression"]
    alone = node.execute({"method": "window", "budget": "30"}).ui
    assert alone == {"ssd_janus": [{"workflow": "a graph", "memory": None}]}
    shown = node.execute({"method": "window", "budget": "30"}, model=held).ui["text"][0]
    assert "30 slots a head" in shown
    assert f"{2 * 2 * 4 * 30 * 8 * 2 * 4 / 1024:.3g} KiB for a picture" in shown


def test_the_sampler_draws_what_the_engine_draws(comfy: SimpleNamespace, held: Any) -> None:
    import ssd_core

    images, tokens, report = run(
        comfy.nodes["SSDJanusSampler"],
        model=held,
        policy=window(comfy),
        prompt="abc",
        images=3,
        seed=5,
        kv_dtype="int8",
    ).args
    expected = ssd_core.generate(
        held.model, ["abc"], ssd_core.Window(9), images_per_prompt=3, seed=5, previews=True, kv_dtype="int8"
    )
    assert tokens.equal(expected.tokens)
    assert images.equal(expected.images)
    assert report["images"] == [{"prompt": "abc", "seed": seed} for seed in (5, 6, 7)]
    assert report["memory"] == expected.memory.as_dict()
    settings = {
        "images_per_prompt": 3, "seed": 5, "negative": None, "guidance": 5.0, "kv_dtype": "int8", "temperature": 1.0,
        "top_k": 0, "top_p": 1.0, "budget": 9, "pin_prompt": True, "dtype": "float32",
        "weights": "auto",
    }  # fmt: skip
    assert (report["method"], report["settings"]) == ("window", settings)
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("images", [3, 6])
@pytest.mark.parametrize(("preview", "rows"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (0, [])])
def test_progress_goes_row_by_row_with_previews(
    comfy: SimpleNamespace, held: Any, images: int, preview: int, rows: list[int]
) -> None:
    drawn = run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc", images=images, preview=preview).args[0]
    told = stand_in.ProgressBar.told
    if preview:
        value, total, (_, last, _) = told.pop()
        assert (value, total, last) == (6, 6, mosaic(to_pil(drawn[:4])))  # whole, whenever the one before it came
    assert [(value, total) for value, total, _ in told] == [(row, 6) for row in range(1, 7)]
    assert [value for value, _, picture in told if picture] == rows
    for _, _, picture in told:
        if picture:
            kind, image, _ = picture
            assert (kind, image.size) == ("JPEG", (2 * 8, 2 * 12))  # three or four pictures in a square


def test_a_preview_that_comes_too_soon_is_left_out(
    comfy: SimpleNamespace, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, plain = 0.0, comfy.preview.paint

    def paint(*given: Any, **named: Any) -> Tensor:
        nonlocal now
        now += 1.0
        return plain(*given, **named)

    monkeypatch.setattr(comfy.preview, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(comfy.preview, "paint", paint)
    previews, shown = comfy.preview.Previews(held.model, 1, None, lambda: None), []
    for row in range(60):
        now += 0.5  # what a row takes
        shown += [row] if previews.after(row, torch.zeros(2, 4, dtype=torch.int64)) else []
    assert shown[0] == 0
    assert 0.5 * comfy.preview.SHARE < (len(shown) - 1) / now <= comfy.preview.SHARE


def test_nothing_is_previewed_where_nobody_looks(
    comfy: SimpleNamespace, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc").args[2]["memory"]
    assert watched["preview_bytes"] == decoding_bytes(held.model)
    monkeypatch.setattr(stand_in.PromptServer.instance, "client_id", None)
    alone = run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc").args[2]["memory"]
    assert alone["preview_bytes"] == 0
    assert not [picture for _, _, picture in stand_in.ProgressBar.told if picture]


@pytest.mark.parametrize("after", range(3))
def test_decoding_and_encoding_are_interrupted_within_a_picture(comfy: SimpleNamespace, held: Any, after: int) -> None:
    tokens = torch.zeros(3, 24, dtype=torch.int64)
    [images] = run(comfy.nodes["SSDJanusDecode"], model=held, tokens=tokens).args
    for node, given in (("SSDJanusDecode", {"tokens": tokens}), ("SSDJanusEncode", {"images": images})):
        comfy.management.interrupt_after = after
        with pytest.raises(stand_in.Interrupted):
            run(comfy.nodes[node], model=held, **given)


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no turns taken at once, however fast they are."""
    monkeypatch.setattr(sys.modules[f"{stand_in.PACK}.ssd_core.turn_kernel"], "AT_ONCE", 0)


def test_an_interruption_comes_through_within_a_token(
    comfy: SimpleNamespace, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    comfy.management.interrupt_after = 10
    with pytest.raises(stand_in.Interrupted):
        run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc", preview=0)
    assert len(stand_in.ProgressBar.told) == 10 // 4


def test_room_is_made_for_what_the_drawing_takes(comfy: SimpleNamespace) -> None:
    [own] = comfy.nodes["SSDJanusLoad"].execute("janus-shapes", "auto").args
    own.on_device(12345)
    assert comfy.management.needed == 12345


def test_the_readout_repeats_the_report(comfy: SimpleNamespace, held: Any) -> None:
    report = run(comfy.nodes["SSDJanusSampler"], model=held, policy=window(comfy), prompt="abc").args[2]
    node = comfy.nodes["SSDJanusReadout"].execute(report)
    text, as_json = node.args
    assert json.loads(as_json) == report
    assert node.ui["text"] == [text]
    memory = report["memory"]
    assert f"{memory['kv_bytes_full'] / memory['kv_bytes']:.1f} times fewer" in text
    assert "9 slots a head" in text
    assert "window: " in text
    assert "budget 9" in text
    assert "guidance 5.0" in text
    assert "abc" in text.splitlines()
    assert text.endswith(f"tokens/s, step {report['step']}")
    assert "on the host" not in text


def test_the_readout_says_what_the_host_keeps(comfy: SimpleNamespace, held: Any) -> None:
    method = {"method": "adsa", "budget": "9", "refresh": "2", "recent": "2", "offload": True}
    policy = comfy.nodes["SSDJanusCompression"].execute(method).args[0]
    report = run(comfy.nodes["SSDJanusSampler"], model=held, policy=policy, prompt="abc").args[2]
    text = comfy.nodes["SSDJanusReadout"].execute(report).args[0]
    [line] = [line for line in text.splitlines() if line.startswith("beside it, on the host")]
    assert line.endswith(human(report["memory"]["host_bytes"]))
    assert report["memory"]["host_bytes"] > 0
    assert report["settings"]["offload"] is True


def test_the_plan_says_what_fits(comfy: SimpleNamespace, held: Any) -> None:
    def planned(images: int, vram: float, policy: Any = None) -> Any:
        return run(comfy.nodes["SSDJanusPlan"], model=held, prompt="abc", images=images, vram=vram, policy=policy).args

    small = window(comfy)
    [text, most] = planned(3, 0.01, small)
    assert f"{most}" in text.splitlines()[-1]
    assert planned(3, 0.01)[1] < most < planned(3, 0.02, small)[1]
    assert planned(4, 0.01, small)[0] != text


@pytest.mark.parametrize("negative", ["", "much longer than what is to be drawn"])
def test_the_plan_and_the_sampler_count_the_drawing_that_runs(comfy: SimpleNamespace, held: Any, negative: str) -> None:
    asked: list[int] = []

    def on_device(needed: int) -> TinyModel:
        asked.append(needed)
        model: TinyModel = held.model
        return model

    held.on_device = on_device
    drawing = {"prompt": "abc", "negative": negative, "guidance": 2.0, "policy": window(comfy, "50"), "images": 2}
    drawing |= {"kv_dtype": "int8"}
    memory = run(comfy.nodes["SSDJanusSampler"], model=held, **drawing).args[2]["memory"]
    assert asked == [memory["peak_bytes"] - memory["weights_bytes"]]
    [text, _] = run(comfy.nodes["SSDJanusPlan"], model=held, vram=0.001, **drawing).args
    for part in ("kv_bytes", "preview_bytes", "peak_bytes"):
        assert memory[part] > 0
        assert human(memory[part]) in text
    vram = memory["peak_bytes"] / 2**30
    assert run(comfy.nodes["SSDJanusPlan"], model=held, vram=vram, **drawing).args[1] == 2


@pytest.mark.parametrize(
    ("room", "said"), [(2, "2 would fit now"), (0, "not one would fit now"), (9, "2 would fit now")]
)
def test_out_of_memory_says_what_would_fit(
    comfy: SimpleNamespace, held: Any, monkeypatch: pytest.MonkeyPatch, room: int, said: str
) -> None:
    from ssd_core import plan

    def fail(self: TinyModel, tokens: Tensor) -> Tensor:
        if tokens.device.type != "meta":
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.codes(tokens)

    memory = plan(held.model, None, room or 1, "abc", previews=True)
    free = memory.peak_bytes - memory.weights_bytes - (room == 0)
    monkeypatch.setattr(comfy.management, "get_free_memory", lambda _: free)
    monkeypatch.setattr(TinyModel, "embed_image", fail)
    with pytest.raises(Exception, match=said) as caught:
        run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc", images=3)
    check_sentence(caught.value)
    assert type(caught.value).__name__ == "UserError"
    assert "3 images at once take" in str(caught.value)


def test_a_preview_of_a_redrawing_shows_what_stays(comfy: SimpleNamespace, held: Any) -> None:
    mask = torch.zeros(1, 6, 4)
    mask[:, :2] = 1
    start = torch.full((1, 24), 19)
    run(comfy.nodes["SSDJanusSampler"], model=held, prompt="abc", images=2, start=start, mask=mask)
    [first, *_] = [preview[1] for _, _, preview in stand_in.ProgressBar.told]
    assert first.getpixel((2, 3)) == (round(GREY * 255),) * 3  # the second row comes later
    assert first.getpixel((2, 11)) == (round(19 / 20 * 255),) * 3  # the last stays
    assert len(stand_in.ProgressBar.told) == 3  # two rows, and the whole


def test_measuring_heads_shows_progress_and_is_interrupted(
    comfy: SimpleNamespace, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one(monkeypatch)
    measuring = {"source": "measure", "prompts": "ab\ncd", "images": 1, "seed": 0, "save_as": ""}
    run(comfy.nodes["SSDJanusHeads"], model=held, source=measuring)
    held.head_maps.clear()
    assert [(value, total) for value, total, _ in stand_in.ProgressBar.told] == [(row, 12) for row in range(1, 13)]
    comfy.management.interrupt_after = 32  # prompts and pictures are looked at, too
    with pytest.raises(stand_in.Interrupted):
        run(comfy.nodes["SSDJanusHeads"], model=held, source=measuring)
    assert len(stand_in.ProgressBar.told) == 7


def test_a_head_map_is_kept_and_loaded_and_never_overwritten(comfy: SimpleNamespace, held: Any, models: Path) -> None:
    node = comfy.nodes["SSDJanusHeads"]
    measuring = {"source": "measure", "prompts": "ab", "images": 1, "seed": 0, "save_as": "kept"}
    head_map, image = run(node, model=held, source=measuring).args
    assert (models / "janus" / "heads" / "kept.safetensors").is_file()
    assert image.shape[0] == 1
    [source, *_] = node.define_schema().inputs
    [choice] = source.options["options"][1].inputs
    assert "kept.safetensors" in choice.options["options"]
    loaded = run(node, model=held, source={"source": "load", "map": "kept.safetensors"}).args[0]
    assert loaded.share.equal(head_map.share)
    assert "heads" not in comfy.nodes["SSDJanusLoad"].define_schema().inputs[0].options["options"]


def test_another_map_of_the_same_name_gets_a_number(comfy: SimpleNamespace, held: Any, models: Path) -> None:
    node, folder = comfy.nodes["SSDJanusHeads"], models / "janus" / "heads"
    measuring = {"source": "measure", "prompts": "ab", "images": 1, "seed": 0, "save_as": "same"}
    first = run(node, model=held, source=measuring).args[0]
    (folder / "same-2.safetensors").write_text("notes")
    second = run(node, model=held, source=measuring | {"seed": 1}).args[0]
    for again in (0, 1):  # after a restart, when nothing is remembered
        held.head_maps.clear()
        run(node, model=held, source=measuring | {"seed": again})
    assert sorted(path.name for path in folder.glob("same*")) == [
        "same-2.safetensors",
        "same-3.safetensors",
        "same.safetensors",
    ]
    assert HeadMap.load(folder / "same.safetensors").share.equal(first.share)
    assert (folder / "same-2.safetensors").read_text() == "notes"
    assert HeadMap.load(folder / "same-3.safetensors").share.equal(second.share)


def test_a_new_tau_is_drawn_and_nothing_measured_again(comfy: SimpleNamespace, held: Any, models: Path) -> None:
    node = comfy.nodes["SSDJanusHeads"]
    measuring = {"source": "measure", "prompts": "ab", "images": 1, "seed": 0, "save_as": ""}
    head_map, image = run(node, model=held, source=measuring, tau=0.0).args
    comfy.management.interrupt_after = 0
    again, other = run(node, model=held, source=measuring | {"save_as": "later"}, tau=1.0).args
    assert again is head_map
    assert not other.equal(image)
    assert (models / "janus" / "heads" / "later.safetensors").is_file()
    for change in ({"prompts": "cd"}, {"images": 2}, {"seed": 1}):
        with pytest.raises(stand_in.Interrupted):
            run(node, model=held, source=measuring | change)


def test_a_model_replaced_under_its_name_is_noticed(comfy: SimpleNamespace, models: Path) -> None:
    load = comfy.nodes["SSDJanusLoad"]
    for path in (models / "janus" / "mine-janus").iterdir():
        check_replacing(load, path, model="mine-janus")
    single = models / "janus" / "single.safetensors"
    single.write_bytes(b"weights")
    check_replacing(load, single, model="single.safetensors")
    single.unlink()
    for model in (None, "single.safetensors", "../secret", "janus-shapes", "download Janus-Pro-1B"):
        assert load.fingerprint_inputs(model=model, precision=None) == ""


def test_a_head_map_replaced_under_its_name_is_noticed(comfy: SimpleNamespace, held: Any, models: Path) -> None:
    node = comfy.nodes["SSDJanusHeads"]
    path = models / "janus" / "heads" / "own.safetensors"
    path.parent.mkdir(exist_ok=True)
    random_map(held.model.geometry).save(path)
    check_replacing(node, path, source={"source": "load", "map": path.name}, tau=0.3, model=None)
    for source in (None, {"source": "load", "map": None}, {"source": "load", "map": "../own"}, {"source": "measure"}):
        assert node.fingerprint_inputs(source=source, tau=None, model=None) == ""


def check_replacing(node: Any, path: Path, **given: Any) -> None:
    """A file of another size or another time changes a node's fingerprint, and nothing else does."""
    content, before = path.read_bytes(), path.stat()
    seen = [node.fingerprint_inputs(**given), node.fingerprint_inputs(**given)]
    os.utime(path, ns=(0, 1))
    seen.append(node.fingerprint_inputs(**given))
    path.write_bytes(content + b" ")
    os.utime(path, ns=(0, 1))
    seen.append(node.fingerprint_inputs(**given))
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert seen[0] == seen[1] == node.fingerprint_inputs(**given)
    assert len({*seen}) == 3
    assert not any(path.name in own for own in seen)  # ComfyUI writes them into pictures


def test_tokens_become_pictures_and_tokens_again(comfy: SimpleNamespace, held: Any) -> None:
    tokens = torch.arange(48).view(2, 24) % 20
    [images] = run(comfy.nodes["SSDJanusDecode"], model=held, tokens=tokens).args
    assert images.equal(held.model.decode_image(tokens))
    for sharpened in (images, images.where(images > 0, -0.01)):  # as by a bicubic filter
        assert run(comfy.nodes["SSDJanusEncode"], model=held, images=sharpened).args[0].equal(tokens)
    tokens[0, 0] = -1
    assert (run(comfy.nodes["SSDJanusDecode"], model=held, tokens=tokens).args[0][0, :2, :2] == GREY).all()
