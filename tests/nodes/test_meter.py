"""What the nodes tell the browser."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ssd_core
from ssd_core import Memory, Window
from tests.nodes import stand_in
from tests.tiny import tiny

GRAPH = SimpleNamespace(
    unique_id="7",
    dynprompt=SimpleNamespace(get_display_node_id={"7": "4:1"}.__getitem__),
    extra_pnginfo={"workflow": {"id": "a graph"}},
)


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> stand_in.PromptServer:
    fresh = stand_in.PromptServer()
    monkeypatch.setattr(stand_in.PromptServer, "instance", fresh)
    return fresh


@pytest.fixture
def pack(server: stand_in.PromptServer, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The pack's module of the meter, its nodes by their ids, and the memory manager."""
    module, management = stand_in.load_pack(tmp_path)
    extension = asyncio.run(module.comfy_entrypoint())
    nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    monkeypatch.setattr(module.nodes.meter, "time", clock)
    return SimpleNamespace(meter=module.nodes.meter, nodes=nodes, management=management)


@pytest.fixture
def memory() -> Memory:
    return ssd_core.plan(tiny(rows=6, columns=4), Window(9), images=2, prompt=4)


def drawing(pack: Any, **given: Any) -> Any:
    model = tiny(rows=6, columns=4)
    held = SimpleNamespace(model=model, device=torch.device("cpu"), on_device=lambda needed: model)
    sampler = pack.nodes["SSDJanusSampler"]
    widgets = {own.id: own.options["default"] for own in sampler.define_schema().inputs if "default" in own.options}
    return sampler.execute(**(widgets | {"model": held, "policy": Window(9), "prompt": "abc"} | given))


def test_a_drawing_tells_its_browser_what_the_engine_reports(pack: Any, server: stand_in.PromptServer) -> None:
    output = drawing(pack, images=3)
    [(event, told, client)] = server.sent  # no time passes here
    assert (event, client) == ("ssd-janus.meter", "a browser")
    assert (told["node"], told["workflow"], told["rows"]) == ("4:1", "a graph", 1)
    report = output.args[2]
    assert told["memory"] == report["memory"]
    assert output.ui == {"ssd_janus": [{"workflow": "a graph", **report}]}
    for sent in (told, output.ui):
        assert json.loads(json.dumps(sent, allow_nan=False)) == sent


def test_the_slots_are_those_that_the_picture_found(
    pack: Any, server: stand_in.PromptServer, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack.meter, "PAUSE", 0.0)
    chosen: dict[str, Any] = {"method": "headkv", "budget": "12", "type_at": 11, "local": "4"}
    compression = pack.nodes["SSDJanusCompression"]
    output = drawing(pack, policy=compression.execute(chosen).args[0])
    report = output.args[2]
    held = SimpleNamespace(model=tiny(rows=6, columns=4))
    planned = ssd_core.plan(held.model, ssd_core.HeadKV(12, type_at=11, local=4), prompt="abc", previews=True)
    slots = [{count for layer in told["memory"]["slots"] for count in layer} for _, told, _ in server.sent]
    assert slots == [{12}] + [{9, 12}] * 5  # 5 tokens of the prompt, and the window or all
    assert server.sent[0][1]["memory"] == planned.as_dict()
    assert server.sent[-1][1]["memory"] == report["memory"]
    assert report["memory"]["kv_bytes"] < planned.kv_bytes
    text = pack.nodes["SSDJanusReadout"].execute(report).args[0]
    assert "until heads are typed" in text
    assert "9 to 12, mean" in text
    assert "typed" not in pack.nodes["SSDJanusReadout"].execute(drawing(pack).args[2]).args[0]
    [shown] = compression.execute(chosen | {"budget": "36", "type_at": 30}, model=held).ui["text"]
    assert shown.startswith("at most 36 slots a head\nat most ")


def test_the_readout_and_the_compression_show_the_engine_s_bytes(pack: Any) -> None:
    report = drawing(pack).args[2]
    assert pack.nodes["SSDJanusReadout"].execute(report).ui["ssd_janus"] == [{"workflow": "a graph", **report}]
    held = SimpleNamespace(model=tiny(rows=6, columns=4))
    [shown] = (
        pack.nodes["SSDJanusCompression"].execute({"method": "window", "budget": "30"}, model=held).ui["ssd_janus"]
    )
    planned = ssd_core.plan(held.model, Window(30))
    assert shown == {"workflow": "a graph", "memory": planned.as_dict()}
    assert Memory(**{field.name: shown["memory"][field.name] for field in fields(Memory)}) == planned


@pytest.mark.parametrize(("pause", "rows"), [(0.11, [1, 2, 3, 4, 5, 6]), (0.06, [1, 3, 5]), (0.011, [1])])
def test_no_more_than_ten_messages_a_second(
    pack: Any, server: stand_in.PromptServer, clock: Clock, memory: Memory, pause: float, rows: list[int]
) -> None:
    meter = pack.meter.Meter(GRAPH, torch.device("cpu"))
    for row in range(1, 7):
        meter.row(row, None, memory)
        clock.now += pause
    assert [told["rows"] for _, told, _ in server.sent] == rows


def test_the_speed_is_the_engine_s(pack: Any, server: stand_in.PromptServer, clock: Clock, memory: Memory) -> None:
    meter = pack.meter.Meter(GRAPH, torch.device("cpu"))
    for row, speed in enumerate((None, 4.0, 5.0)):
        clock.now += 1
        meter.row(row, speed, memory)
    assert [told["tokens_per_second"] for _, told, _ in server.sent] == [None, 4.0, 5.0]


@pytest.mark.parametrize(("device", "free"), [("cpu", None), ("cuda", 2**33)])
def test_what_is_free_is_told_where_it_is_the_drawing_s_own(
    pack: Any, server: stand_in.PromptServer, memory: Memory, device: str, free: int | None
) -> None:
    pack.meter.Meter(GRAPH, torch.device(device)).row(1, None, memory)
    assert server.sent[0][1]["free_bytes"] == free


def test_nobody_is_told_where_no_browser_asked(
    pack: Any, server: stand_in.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "client_id", None)  # sending to it would reach every browser
    assert drawing(pack).args[2]["memory"]
    assert server.sent == []


@pytest.mark.parametrize(
    "info", [None, [], {}, {"workflow": None}, {"workflow": {"id": 7}}, {"workflow": {"nodes": []}}]
)
def test_a_client_that_tells_no_graph_is_served_too(pack: Any, info: Any) -> None:
    assert pack.meter.workflow_of(SimpleNamespace(extra_pnginfo=info)) is None


@pytest.mark.parametrize("value", [torch.zeros(1), torch.float32, np.int64(3), {1, 2}, b"bytes", object()])
def test_what_json_cannot_hold_never_reaches_the_server(
    pack: Any, server: stand_in.PromptServer, value: object
) -> None:
    meter = pack.meter.Meter(GRAPH, torch.device("cpu"))
    for figures in ({"rows": value}, {"memory": {"slots": [[value]]}}):
        with pytest.raises(TypeError, match="cannot be told"):
            meter.send(figures)
        with pytest.raises(TypeError, match="cannot be told"):
            pack.meter.shown(GRAPH, figures)
    assert server.sent == []


def test_what_is_not_finite_is_left_open(pack: Any) -> None:
    told = {"a": [1, 0.5, float("nan"), (float("inf"), -float("inf"))], 2: {"b": None, "c": True, "d": "text"}}
    plain = {"a": [1, 0.5, None, [None, None]], "2": {"b": None, "c": True, "d": "text"}}
    assert pack.meter.plain(told) == plain
    json.dumps(pack.meter.plain(told), allow_nan=False)
