"""The meters in the nodes, fed with a recorded run."""

from __future__ import annotations

from typing import Any

from tests.web.graphs import COMPRESSION, GRAPH, INNER, OTHER, READOUT, SAMPLER, graph
from tests.web.meters import KEPT, NOTHING, drawing, figures_of, play, read
from tests.web.recording import PROMPT, ROWS, Message


def bars(memory: Any, cache: int) -> dict[str, int]:
    return {"Weights": memory["weights_bytes"], "Cache": cache, "Picture decoder": memory["picture_bytes"]}


def test_a_meter_is_empty_until_something_runs(opened: Any) -> None:
    for node in (COMPRESSION, SAMPLER, READOUT, OTHER):
        meter = read(opened, node)
        assert (meter["state"], meter["title"], meter["now"]) == ("empty", NOTHING, {})
        assert meter["spoken"] == ""
    assert read(opened, INNER)["title"] == NOTHING


def test_a_drawing_shows_its_figures_while_it_lasts(opened: Any, run: list[Message]) -> None:
    told = drawing(run)
    assert len(told) == ROWS
    half = told[: len(told) // 2]
    play(opened, run[0], *half)
    opened.page.wait_for_timeout(150)  # the last may wait for its turn
    figures = half[-1][1]
    rows, memory = figures["rows"], figures["memory"]
    meter = read(opened, SAMPLER)
    assert meter["state"] == "drawing"
    assert meter["title"] == f"Row {rows} of {ROWS} · {round(figures['tokens_per_second'])} tokens/s"
    assert meter["now"] == bars(memory, memory["kv_bytes_by_row"][rows])
    assert meter["saved"] == f"{memory['kv_bytes_full'] / memory['kv_bytes']:.1f}×less"
    counts = [count for layer in memory["slots"] for count in layer]
    assert meter["captions"][1] == f"Slots: {min(counts)} to {max(counts)}"
    assert meter["pictures"][0].startswith(f"After {rows} rows the cache holds ")
    assert meter["spoken"] == "Drawing."
    assert read(opened, OTHER)["state"] == "empty"
    opened.screenshot(KEPT / f"{opened.name}-drawing.png")


def test_the_report_s_bytes_are_shown_in_the_end(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    for node in (SAMPLER, READOUT):
        figures = figures_of(run, node)
        meter = read(opened, node)
        assert meter["state"] == "done"
        assert meter["title"] == f"{ROWS} rows drawn · {round(figures['tokens_per_second'])} tokens/s"
        assert meter["now"] == bars(figures["memory"], figures["memory"]["kv_bytes"])
        assert meter["label"].startswith(f"KV memory. {meter['title']}.")
    assert read(opened, SAMPLER)["spoken"] == read(opened, SAMPLER)["label"]
    planned = figures_of(run, COMPRESSION)["memory"]
    meter = read(opened, COMPRESSION)
    assert (meter["title"], meter["now"]) == ("Planned for 1 image", {"Cache": planned["kv_bytes"]})
    assert read(opened, OTHER)["state"] == "empty"
    opened.screenshot(KEPT / f"{opened.name}-done.png")
    for meter in opened.meters("done").all():
        box, part = meter.bounding_box(), meter.locator("figcaption").first.bounding_box()
        assert part["y"] + part["height"] <= box["y"] + box["height"]  # nothing is cut off


def test_what_the_host_keeps_has_a_bar_where_there_is_some(opened: Any, run: list[Message]) -> None:
    told = drawing(run)
    memory = told[0][1]["memory"]
    assert memory["host_bytes"] == 0
    play(opened, run[0], *told[:1])
    assert "On the host" not in read(opened, SAMPLER)["now"]
    offloaded = [(kind, data | {"memory": memory | {"host_bytes": 12345}}) for kind, data in told]
    play(opened, run[0], *offloaded[:1])
    opened.page.wait_for_timeout(300)  # figures that come soon after others wait for their turn
    assert read(opened, SAMPLER)["now"]["On the host"] == 12345


def test_the_last_report_is_there_after_a_reload(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    before = {node: read(opened, node) for node in (COMPRESSION, SAMPLER, READOUT, OTHER)}
    opened.open()
    opened.load(graph())
    for node, meter in before.items():
        assert read(opened, node) == meter | {"spoken": ""}
    opened.load(graph() | {"id": "11111111-1111-4111-8111-111111111111"})
    assert read(opened, SAMPLER)["state"] == "empty"


BROKEN = """([graph, broken, whole]) => localStorage.setItem('ssd-janus.reports.1', JSON.stringify({[graph]: {
  [broken[0]]: { memory: { slots: 'none' } }, [broken[1]]: null, [broken[2]]: 'figures', [whole[0]]: whole[1],
}}))"""


def test_a_report_that_cannot_be_read_leaves_the_others(opened: Any, run: list[Message]) -> None:
    broken = (COMPRESSION, SAMPLER, OTHER)
    opened.page.evaluate(BROKEN, [GRAPH, broken, [READOUT, figures_of(run, READOUT)]])
    opened.load(graph())
    assert [read(opened, node)["title"] for node in broken] == [NOTHING] * 3
    assert read(opened, READOUT)["state"] == "done"
    assert "figures that cannot be shown" in opened.errors.pop()
    assert opened.errors == []


def test_a_sampler_in_a_subgraph_has_a_meter(opened: Any, run: list[Message]) -> None:
    inside = [(kind, data | {"node": INNER}) for kind, data in drawing(run)]
    play(opened, run[0], *inside[:1])
    assert read(opened, INNER)["state"] == "drawing"
    assert read(opened, SAMPLER)["state"] == "empty"
    shown = figures_of(run, SAMPLER)
    executed = {"node": INNER, "display_node": INNER, "output": {"ssd_janus": [shown]}}
    play(opened, ("executed", PROMPT | executed))
    opened.page.evaluate("app.canvas.openSubgraph(app.rootGraph.getNodeById(6).subgraph, app.rootGraph.getNodeById(6))")
    opened.meters("done").wait_for()
    opened.load(graph())
    assert read(opened, INNER)["state"] == "done"


def test_the_units_can_be_chosen(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    weights = figures_of(run, SAMPLER)["memory"]["weights_bytes"]
    assert read(opened, SAMPLER)["figures"][0] == f"{weights / 2**10:.3g} KiB"
    opened.choose("SSDJanus.Meter.Units", "decimal")
    try:
        assert read(opened, SAMPLER)["figures"][0] == f"{weights / 1e3:.3g} kB"
    finally:
        opened.choose("SSDJanus.Meter.Units", "binary")


def test_meters_can_be_switched_off_and_on(opened: Any, run: list[Message]) -> None:
    tall = opened.page.evaluate("app.graph.getNodeById(3).size[1]")
    opened.choose("SSDJanus.Meter.Shown", False)
    try:
        assert read(opened, SAMPLER) is None
        opened.page.wait_for_function("document.querySelectorAll('.ssd-janus-meter').length === 0")
        assert opened.page.evaluate("app.graph.getNodeById(3).size[1]") < tall - 150
        play(opened, *run)
    finally:
        opened.choose("SSDJanus.Meter.Shown", True)
    assert read(opened, SAMPLER)["state"] == "done"


def test_fewer_updates_can_be_asked_for(opened: Any, run: list[Message]) -> None:
    kind, figures = drawing(run)[0]
    seen = []
    opened.choose("SSDJanus.Meter.Rate", 1)
    try:
        for row in range(1, 9):
            play(opened, (kind, figures | {"rows": row}))
            seen.append(read(opened, SAMPLER)["title"])
            opened.page.wait_for_timeout(50)
        opened.page.wait_for_timeout(1000)
        assert read(opened, SAMPLER)["title"].startswith(f"Row 8 of {ROWS}")  # the last is never left out
    finally:
        opened.choose("SSDJanus.Meter.Rate", 10)
    assert len(set(seen)) < 5


def test_the_prompt_carries_nothing_of_the_meter(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    prompt = opened.page.evaluate("async () => (await app.graphToPrompt())")
    assert prompt["workflow"]["id"] == GRAPH
    assert "meter" not in prompt["output"][SAMPLER]["inputs"]
    assert "ssd_janus" not in str(prompt)
