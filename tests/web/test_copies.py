"""Meters of nodes that are copied, pasted and removed."""

from __future__ import annotations

from typing import Any

from tests.web.graphs import COMPRESSION, SAMPLER
from tests.web.meters import NOTHING, drawing, play, read
from tests.web.recording import Message

COPY = "id => app.canvas.copyToClipboard([app.graph.getNodeById(id)])"
PASTE = "() => { app.canvas.pasteFromClipboard(); return String(app.graph.nodes.at(-1).id) }"
REMOVE = "id => app.graph.remove(app.graph.getNodeById(id))"
CLASS = "import('/extensions/ssd-janus/meter.js').then(({ Meter }) => Meter.prototype)"
METERS = 5  # of the graph


def alive(tab: Any) -> int:
    """Meters in the page's memory."""
    session = tab.page.context.new_cdp_session(tab.page)
    prototype = session.send("Runtime.evaluate", {"expression": CLASS, "awaitPromise": True})["result"]["objectId"]
    objects = session.send("Runtime.queryObjects", {"prototypeObjectId": prototype})["objects"]["objectId"]
    count = session.send(
        "Runtime.callFunctionOn",
        {"objectId": objects, "functionDeclaration": "function () { return this.length }", "returnByValue": True},
    )
    session.detach()
    return int(count["result"]["value"])


def test_a_copy_leaves_no_meter_behind(opened: Any) -> None:
    before = alive(opened)
    for _ in range(10):
        opened.page.evaluate(COPY, SAMPLER)
    assert alive(opened) - before < 5  # the page may keep the last ones for a while


def test_a_pasted_node_has_a_meter_of_its_own(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    opened.page.evaluate(COPY, SAMPLER)
    pasted = opened.page.evaluate(PASTE)
    assert read(opened, pasted)["title"] == NOTHING
    assert read(opened, SAMPLER)["state"] == "done"
    play(opened, *[(kind, data | {"node": pasted}) for kind, data in drawing(run)[:3]])
    assert read(opened, pasted)["state"] == "drawing"
    assert read(opened, SAMPLER)["state"] == "done"


def test_a_removed_node_takes_its_meter_along(opened: Any, run: list[Message]) -> None:
    shown = "count => document.querySelectorAll('.ssd-janus-meter').length === count"
    opened.page.wait_for_function(shown, arg=METERS - 1)  # one is in the subgraph
    play(opened, run[0], *drawing(run)[:3])
    opened.page.evaluate(REMOVE, SAMPLER)
    opened.page.wait_for_function(shown, arg=METERS - 2)
    play(opened, *run)  # what is told of it goes nowhere
    assert read(opened, COMPRESSION)["state"] == "done"
