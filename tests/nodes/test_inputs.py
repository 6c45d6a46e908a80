"""Every input of every node counts: a change of it is seen in what comes out, or refused.

CASES is the table. An input without an entry fails a test below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssd_core.heads import HeadMap
from tests.nodes import stand_in
from tests.nodes.running import run
from tests.tiny import random_map, tiny

Comfy = SimpleNamespace
Inputs = Callable[[Comfy], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """What a node is given, and then what else; `refused` is how the refusal of the latter begins, if it is one."""

    given: Inputs
    changed: Inputs
    refused: str = ""


def held(seed: int = 0, **sizes: Any) -> Any:
    model = tiny(**{"rows": 6, "columns": 4, "seed": seed} | sizes)
    return SimpleNamespace(model=model, device=torch.device("cpu"), on_device=lambda needed: model, head_maps={})


def policy(comfy: Comfy, budget: str) -> Any:
    return comfy.nodes["SSDJanusCompression"].execute({"method": "window", "budget": budget}).args[0]


def report(comfy: Comfy, seed: int = 0) -> Any:
    return run(comfy.nodes["SSDJanusSampler"], model=held(), prompt="ab", seed=seed, policy=policy(comfy, "9")).args[2]


def load(_: Comfy) -> dict[str, Any]:
    return {"model": "mine-janus"}


def compression(method: str) -> Inputs:
    widgets: dict[str, dict[str, Any]] = {
        "full": {},
        "window": {"budget": "30", "pin_prompt": True},
        "streaming": {"budget": "0.5", "sinks": 4},
        "diagonal": {"budget": "0.5", "held": 0.7},
        "ssd": {"budget": "0.5", "refresh": "row", "tau": 0.3},
        "reach": {"budget": "0.5", "refresh": "row"},
        "h2o": {"budget": "0.5", "refresh": "row"},
        "snapkv": {"budget": "0.5", "refresh": "row", "pool": 5},
        "line-ar": {"budget": "0.5", "refresh": "row", "anchors": 4},
        "adsa": {"budget": "0.5", "refresh": "row"},
        "headkv": {"budget": "0.5", "type_at": 30, "mass": 0.9, "refresh": "row", "split": 0.5},
    }
    return lambda _: {"method": {"method": method, **widgets[method]}}


def heads(**changes: Any) -> Inputs:
    widgets = {"source": "measure", "prompts": "ab", "images": 1, "seed": 0, "save_as": ""}
    return lambda _: {"source": widgets | changes, "model": held()}


def loaded(name: str) -> Inputs:
    return lambda _: {"source": {"source": "load", "map": name}}


def sampler(**changes: Any) -> Inputs:
    return lambda _: {"model": held(), "prompt": "abc", "temperature": 4.0, "preview": 0} | changes


def planned(_: Comfy) -> dict[str, Any]:
    return {"model": held(), "prompt": "abc", "vram": 0.01}  # more would hold very many pictures of so small a model


def begun(**changes: Any) -> Inputs:
    tokens = torch.arange(24)[None] % 20
    return sampler(**{"start": tokens, "keep_rows": 3} | changes)


def masked(rows: int) -> Inputs:
    mask = torch.zeros(1, 6, 4)
    mask[:, rows:] = 1
    return begun(keep_rows=0, mask=mask)


def setting(**changes: Any) -> Inputs:
    return lambda comfy: changes


def picture(seed: int = 0, width: int = 8) -> Tensor:
    return torch.rand(1, 12, width, 3, generator=torch.Generator().manual_seed(seed))


def method(name: str, **changes: Any) -> Case:
    """A widget of a method changes."""
    plain = compression(name)
    return Case(plain, lambda comfy: {"method": plain(comfy)["method"] | changes})


CASES: dict[str, dict[str, list[Case]]] = {
    "SSDJanusLoad": {
        "model": [
            Case(load, setting(model="janus-shapes")),
            Case(load, setting(model="../secret"), "There is no model"),
        ],
        "precision": [Case(load, setting(precision="bf16"))],
        "weights": [
            Case(load, setting(weights="int8")),
            Case(load, setting(weights="fp8")),
            Case(load, setting(weights="int2"), "Weights are kept in"),
        ],
    },
    "SSDJanusCompression": {
        "method": [
            Case(compression("full"), compression("window")),
            Case(
                compression("full"), setting(method={"method": "sdd"}), "The method is none of full, window, streaming"
            ),
        ],
        "method.window.budget": [method("window", budget="9")],
        "method.window.pin_prompt": [method("window", pin_prompt=False)],
        "method.streaming.budget": [method("streaming", budget="9")],
        "method.streaming.sinks": [method("streaming", sinks=2)],
        "method.diagonal.budget": [method("diagonal", budget="12")],
        "method.diagonal.held": [method("diagonal", held=1.0)],
        "method.ssd.budget": [method("ssd", budget="9")],
        "method.ssd.refresh": [method("ssd", refresh="2")],
        "method.ssd.tau": [method("ssd", tau=0.5)],
        "method.ssd.spatial": [method("ssd", spatial="2")],
        "method.ssd.recent": [method("ssd", recent="3")],
        "method.ssd.half_life": [method("ssd", half_life="2")],
        "method.ssd.pin_prompt": [method("ssd", pin_prompt="no")],
        "method.ssd.literal": [method("ssd", literal=True)],
        "method.reach.budget": [method("reach", budget="9")],
        "method.reach.lost": [method("reach", lost="0.1")],
        "method.reach.refresh": [method("reach", refresh="2")],
        "method.reach.half_life": [method("reach", half_life="2")],
        "method.h2o.budget": [method("h2o", budget="9")],
        "method.h2o.refresh": [method("h2o", refresh="2")],
        "method.h2o.recent": [method("h2o", recent="3")],
        "method.h2o.pin_prompt": [method("h2o", pin_prompt=False)],
        "method.snapkv.budget": [method("snapkv", budget="9")],
        "method.snapkv.refresh": [method("snapkv", refresh="2")],
        "method.snapkv.window": [method("snapkv", window="3")],
        "method.snapkv.pool": [
            method("snapkv", pool=1),
            Case(compression("snapkv"), setting(method={"method": "snapkv", "pool": 4}), "pool is an odd number"),
        ],
        "method.snapkv.pin_prompt": [method("snapkv", pin_prompt=False)],
        "method.line-ar.budget": [method("line-ar", budget="9")],
        "method.line-ar.refresh": [method("line-ar", refresh="2")],
        "method.line-ar.anchors": [method("line-ar", anchors=0)],
        "method.line-ar.recent": [method("line-ar", recent="3")],
        "method.adsa.budget": [method("adsa", budget="9")],
        "method.adsa.refresh": [method("adsa", refresh="2")],
        "method.adsa.recent": [method("adsa", recent="3")],
        "method.adsa.pin_prompt": [method("adsa", pin_prompt=False)],
        "method.adsa.offload": [method("adsa", offload=True)],
        "method.headkv.budget": [method("headkv", budget="9")],
        "method.headkv.type_at": [method("headkv", type_at=40)],
        "method.headkv.mass": [method("headkv", mass=0.8)],
        "method.headkv.local": [method("headkv", local="3")],
        "method.headkv.refresh": [method("headkv", refresh="2")],
        "method.headkv.split": [method("headkv", split=0.6)],
        "head_map": [
            Case(compression("ssd"), lambda _: {"head_map": random_map(held().model.geometry)}),
            Case(
                compression("window"),
                lambda _: {"head_map": random_map(held().model.geometry)},
                "The method window takes no head_map",
            ),
        ],
        "model": [
            Case(compression("window"), lambda _: {"model": held()}),
            Case(compression("ssd"), lambda _: {"model": held()}, "No head map is known for tiny"),
        ],
    },
    "SSDJanusHeads": {
        "source": [
            Case(heads(), loaded("janus-pro-1b"), "The head map describes 24 layers x 16 heads"),
            Case(heads(), setting(source={"source": "guess"}), "The source is none of measure, load"),
        ],
        "source.measure.prompts": [Case(heads(), heads(prompts="cd\n\nef"))],
        "source.measure.images": [Case(heads(), heads(images=2))],
        "source.measure.seed": [Case(heads(), heads(seed=9))],
        "source.measure.save_as": [
            Case(heads(), heads(save_as="mine")),
            Case(heads(), heads(save_as="../mine"), "A head map's name is"),
            Case(heads(), heads(save_as=".."), "A head map's name is"),
        ],
        "source.load.map": [
            Case(loaded("janus-pro-1b"), loaded("janus-pro-7b")),
            Case(loaded("janus-pro-1b"), loaded("../janus-pro-1b"), "There is no head map"),
        ],
        "model": [
            Case(heads(), setting(model=None), "To measure heads, connect a model"),
            Case(heads(), lambda _: {"model": held(5)}),
        ],
        "tau": [Case(loaded("janus-pro-1b"), setting(tau=0.8)), Case(heads(), setting(tau=2.0), "tau is a share")],
    },
    "SSDJanusSampler": {
        "model": [Case(sampler(), lambda _: {"model": held(1)})],
        "policy": [Case(sampler(), lambda comfy: {"policy": policy(comfy, "6")})],
        "prompt": [Case(sampler(), setting(prompt="another"))],
        "negative": [
            Case(sampler(), setting(negative="bad")),
            Case(sampler(guidance=1.0), setting(negative="bad"), "A negative prompt works through guidance"),
        ],
        "seed": [Case(sampler(), setting(seed=1))],
        "images": [
            Case(sampler(), setting(images=2)),
            Case(
                sampler(), setting(images=0), "0 images were asked for; where Plan KV Memory says so, not even one fits"
            ),
        ],
        "guidance": [Case(sampler(), setting(guidance=1.0))],
        "temperature": [Case(sampler(), setting(temperature=9.0))],
        "top_k": [Case(sampler(), setting(top_k=1))],
        "top_p": [Case(sampler(), setting(top_p=0.01))],
        "preview": [Case(sampler(), setting(preview=2))],
        "start": [
            Case(begun(), begun(start=torch.zeros(1, 24, dtype=torch.int64))),
            Case(begun(), begun(start=torch.full((1, 24), 20)), "Image tokens lie in 0..19"),
            Case(begun(), begun(start=torch.zeros(2, 24, dtype=torch.int64)), "start is for 2 images, but 1"),
            Case(begun(), begun(keep_rows=0), "start has no effect"),
        ],
        "keep_rows": [
            Case(begun(), setting(keep_rows=2)),
            Case(begun(), setting(keep_rows=6), "A picture has 6 rows of tokens, so 0 to 5 can be kept"),
            Case(sampler(), setting(keep_rows=2), "keep_rows and mask say what stays"),
        ],
        "mask": [
            Case(masked(2), masked(4)),
            Case(masked(2), masked(0), "Nothing of the picture stays"),
            Case(begun(), setting(mask=torch.zeros(1, 6, 4)), "All of the picture stays"),
            Case(sampler(), setting(mask=torch.zeros(1, 6, 4)), "keep_rows and mask say what stays"),
        ],
        "kv_dtype": [
            Case(sampler(), setting(kv_dtype="fp8")),
            Case(sampler(), setting(kv_dtype="int4"), "kv_dtype is auto, int8, fp8, not 'int4'"),
        ],
    },
    "SSDJanusReadout": {
        "report": [Case(lambda comfy: {"report": report(comfy)}, lambda comfy: {"report": report(comfy, 3)})],
    },
    "SSDJanusPlan": {
        "model": [Case(planned, lambda _: {"model": held(rows=8)})],
        "policy": [Case(planned, lambda comfy: {"policy": policy(comfy, "9")})],
        "images": [Case(planned, setting(images=5))],
        "vram": [Case(planned, setting(vram=0.02))],
        "prompt": [Case(planned, setting(prompt="a longer one, of which more rows must be kept"))],
        "negative": [
            Case(planned, setting(negative="longer than the prompt, by as many letters as it takes to be so")),
            Case(planned, setting(negative="bad", guidance=1.0), "A negative prompt works through guidance"),
        ],
        "guidance": [Case(planned, setting(guidance=1.0))],
        "kv_dtype": [Case(planned, setting(kv_dtype="int8"))],
    },
    "SSDJanusEncode": {
        "model": [
            Case(lambda _: {"model": held(), "images": picture()}, lambda _: {"model": held(rows=4)}),
        ],
        "images": [
            Case(lambda _: {"model": held(), "images": picture()}, setting(images=picture(1))),
            Case(lambda _: {"model": held(), "images": picture()}, setting(images=picture(0, width=30))),
            Case(
                lambda _: {"model": held(), "images": picture()}, setting(images=picture()[0]), "Pictures are a table"
            ),
        ],
    },
    "SSDJanusDecode": {
        "model": [
            Case(
                lambda _: {"model": held(), "tokens": torch.zeros(1, 24, dtype=torch.int64)},
                lambda _: {"model": held(rows=4)},
                "The tokens of pictures are a table",
            ),
        ],
        "tokens": [
            Case(
                lambda _: {"model": held(), "tokens": torch.zeros(1, 24, dtype=torch.int64)},
                setting(tokens=torch.ones(1, 24, dtype=torch.int64)),
            ),
            Case(
                lambda _: {"model": held(), "tokens": torch.zeros(1, 24, dtype=torch.int64)},
                setting(tokens=torch.full((1, 24), 20)),
                "Image tokens lie in 0..19",
            ),
        ],
    },
}
EACH = [
    pytest.param(node, case, id=f"{node}-{name}-{place}")
    for node, inputs in CASES.items()
    for name, cases in inputs.items()
    for place, case in enumerate(cases)
]


def seen(value: Any) -> Any:
    """A value that can be compared, without what differs from run to run."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, HeadMap):
        return value.share.tolist(), value.about
    if is_dataclass(value):
        return type(value).__name__, [(field.name, seen(getattr(value, field.name))) for field in fields(value)]
    if isinstance(value, nn.Module):
        return str(value)
    if isinstance(value, dict):
        return {key: seen(own) for key, own in value.items() if key not in ("seconds", "tokens_per_second")}
    if isinstance(value, list):
        return list(map(seen, value))
    if isinstance(value, stand_in.PreviewText):
        return value.value
    if hasattr(value, "patcher"):
        return value.model.name, value.model.dtype, value.model.weights
    return value


def outcome(comfy: Comfy, models: Path, node: str, given: dict[str, Any]) -> Any:
    """All that comes of a run: outputs, what the node shows, previews, and files."""
    stand_in.ProgressBar.told = []
    done = run(comfy.nodes[node], **given)
    previews = [picture.size for _, _, preview in stand_in.ProgressBar.told if preview for picture in preview[1:2]]
    return [*map(seen, done.args)], seen(done.ui), previews, sorted(models.rglob("*"))


@pytest.mark.parametrize(("node", "case"), EACH)
def test_a_changed_input_is_seen_or_refused(comfy: Comfy, models: Path, node: str, case: Case) -> None:
    comfy.management.interrupt_after = None
    given = case.given(comfy)
    before = outcome(comfy, models, node, given)
    changed = given | case.changed(comfy)
    if case.refused:
        with pytest.raises(Exception, match=f"^{case.refused}") as caught:
            outcome(comfy, models, node, changed)
        assert type(caught.value).__name__ == "UserError"
    else:
        assert outcome(comfy, models, node, changed) != before
        assert outcome(comfy, models, node, given)[:3] == before[:3], "the same again is seen as the same"


def names(inputs: list[Any]) -> Iterator[str]:
    """All inputs of a schema; those of a choice's options by its name, the option's and their own."""
    for own in inputs:
        yield own.id
        for option in own.options["options"] if own.kind == "DynamicCombo" else ():
            yield from (f"{own.id}.{option.key}.{inner}" for inner in names(option.inputs))


def test_every_input_of_every_node_is_in_the_table(comfy: Comfy) -> None:
    known = {node: set(names(own.define_schema().inputs)) for node, own in comfy.nodes.items()}
    assert {node: set(inputs) for node, inputs in CASES.items()} == known


def test_every_input_says_what_it_is(comfy: Comfy) -> None:
    def tooltips(inputs: list[Any]) -> Iterator[tuple[str, Any]]:
        for own in inputs:
            yield own.id, own.options.get("tooltip")
            for option in own.options["options"] if own.kind == "DynamicCombo" else ():
                yield from tooltips(option.inputs)

    for node in comfy.nodes.values():
        assert not [name for name, tooltip in tooltips(node.define_schema().inputs) if not tooltip]
