"""The meters in the nodes, fed with a recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.web.graphs import COMPRESSION, GRAPH, INNER, OTHER, READOUT, SAMPLER, graph
from tests.web.recording import PROMPT, ROWS, Message

KEPT = Path(__file__).parents[2] / "out" / "web"  # screenshots, to be looked at
NOTHING = "Figures come with the next run."
METER = "ssd-janus.meter"

LISTEN = """() => {
  window.played = new Promise((done) => app.api.addEventListener('played', done, { once: true }))
}"""
READ = """id => {
  let owner = app.rootGraph ?? app.graph, node
  for (const part of id.split(':')) { node = owner.getNodeById(part); owner = node.subgraph }
  const element = node.widgets.find((widget) => widget.name === 'meter')?.element
  if (!element) return null
  const texts = (selector) => [...element.querySelectorAll(selector)].map((found) => found.textContent)
  const bars = [...element.querySelectorAll('[role=meter]')]
  return {
    state: element.dataset.state,
    label: element.ariaLabel,
    title: texts('.state')[0],
    saved: texts('.fold')[0],
    figures: texts('.figure'),
    captions: texts('figcaption'),
    spoken: texts('[role=status]')[0],
    pictures: [...element.querySelectorAll('[role=img]')].map((found) => found.ariaLabel),
    now: Object.fromEntries(bars.map((bar) => [bar.ariaLabel, Number(bar.ariaValueNow)])),
  }
}"""


def read(tab: Any, node: str) -> Any:
    """What the meter of a node shows and says; None where there is none."""
    return tab.page.evaluate(READ, node)


def play(tab: Any, *messages: Message) -> None:
    """Send messages and wait until the page has them; they come in order."""
    tab.page.evaluate(LISTEN)
    for message in (*messages, ("played", {})):
        tab.server.play(*message)
    tab.page.evaluate("window.played.then(() => true)")


def figures_of(run: list[Message], node: str) -> Any:
    """What a node showed in the end."""
    [shown] = [data["output"]["ssd_janus"][0] for kind, data in run if kind == "executed" and data["node"] == node]
    return shown


def bars(memory: Any, cache: int) -> dict[str, int]:
    return {"Weights": memory["weights_bytes"], "Cache": cache, "Picture decoder": memory["picture_bytes"]}


@pytest.fixture
def opened(tab: Any) -> Any:
    """The page with the graph as one who never ran it sees it."""
    tab.page.evaluate("localStorage.removeItem('ssd-janus.reports')")
    tab.load(graph())
    return tab


def drawing(run: list[Message]) -> list[Message]:
    return [message for message in run if message[0] == METER]


def test_a_meter_is_empty_until_something_runs(opened: Any) -> None:
    for node in (COMPRESSION, SAMPLER, READOUT, OTHER, INNER):
        meter = read(opened, node)
        assert (meter["state"], meter["title"], meter["now"]) == ("empty", NOTHING, {})
        assert meter["spoken"] == ""


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
    assert meter["captions"][1] == f"Slots a head: {min(counts)} to {max(counts)}"
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


@pytest.mark.parametrize(
    ("end", "note"),
    [
        ("execution_error", "The last run stopped with an error."),
        ("execution_interrupted", "The last run was interrupted."),
        ("execution_success", NOTHING),
    ],
)
def test_a_run_that_ends_without_a_report_leaves_nothing(opened: Any, run: list[Message], end: str, note: str) -> None:
    play(opened, run[0], *drawing(run)[:3])
    assert read(opened, SAMPLER)["state"] == "drawing"
    about = {"node_id": SAMPLER, "node_type": "SSDJanusSampler", "executed": [], "exception_message": "No.",
             "exception_type": "UserError", "traceback": [], "current_inputs": {}, "current_outputs": []}  # fmt: skip
    play(opened, (end, PROMPT | about))
    meter = read(opened, SAMPLER)
    assert (meter["state"], meter["title"], meter["now"], meter["captions"]) == ("empty", note, {}, [])
    opened.page.keyboard.press("Escape")  # the page's own report of the error


def test_the_last_report_is_there_after_a_reload(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    before = {node: read(opened, node) for node in (COMPRESSION, SAMPLER, READOUT, OTHER)}
    opened.open()
    opened.load(graph())
    for node, meter in before.items():
        assert read(opened, node) == meter | {"spoken": ""}
    opened.load(graph() | {"id": "11111111-1111-4111-8111-111111111111"})
    assert read(opened, SAMPLER)["state"] == "empty"


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


def test_another_graph_s_run_is_not_shown(opened: Any, run: list[Message]) -> None:
    kind, figures = drawing(run)[0]
    play(opened, (kind, figures | {"workflow": "another"}))
    assert read(opened, SAMPLER)["state"] == "empty"
    executed = {"node": SAMPLER, "output": {"ssd_janus": [figures_of(run, SAMPLER) | {"workflow": "another"}]}}
    play(opened, ("executed", PROMPT | executed))
    assert read(opened, SAMPLER)["state"] == "empty"
    opened.load(graph() | {"id": "another"})
    assert read(opened, SAMPLER)["state"] == "done"
    play(opened, (kind, figures | {"workflow": None}))  # a client that tells no graph
    assert read(opened, SAMPLER)["state"] == "drawing"


def test_what_comfyui_has_kept_of_another_graph_s_run_is_shown(opened: Any, run: list[Message]) -> None:
    shown = figures_of(run, SAMPLER)
    play(
        opened,
        ("execution_start", PROMPT),
        ("execution_cached", PROMPT | {"nodes": [SAMPLER]}),
        ("executed", PROMPT | {"node": SAMPLER, "output": {"ssd_janus": [shown | {"workflow": "another"}]}}),
    )
    assert read(opened, SAMPLER)["state"] == "done"
    assert read(opened, OTHER)["state"] == "empty"
    opened.load(graph())
    assert read(opened, SAMPLER)["state"] == "done"
    play(opened, ("execution_cached", PROMPT | {"nodes": []}))


def choose(tab: Any, setting: str, value: Any) -> None:
    tab.page.evaluate("([id, value]) => app.extensionManager.setting.set(id, value)", [setting, value])


def test_the_units_can_be_chosen(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    weights = figures_of(run, SAMPLER)["memory"]["weights_bytes"]
    assert read(opened, SAMPLER)["figures"][0] == f"{weights / 2**10:.3g} KiB"
    choose(opened, "SSDJanus.Meter.Units", "decimal")
    try:
        assert read(opened, SAMPLER)["figures"][0] == f"{weights / 1e3:.3g} kB"
    finally:
        choose(opened, "SSDJanus.Meter.Units", "binary")


def test_meters_can_be_switched_off_and_on(opened: Any, run: list[Message]) -> None:
    tall = opened.page.evaluate("app.graph.getNodeById(3).size[1]")
    choose(opened, "SSDJanus.Meter.Shown", False)
    try:
        assert read(opened, SAMPLER) is None
        opened.page.wait_for_function("document.querySelectorAll('.ssd-janus-meter').length === 0")
        assert opened.page.evaluate("app.graph.getNodeById(3).size[1]") < tall - 150
        play(opened, *run)
    finally:
        choose(opened, "SSDJanus.Meter.Shown", True)
    assert read(opened, SAMPLER)["state"] == "done"


def test_fewer_updates_can_be_asked_for(opened: Any, run: list[Message]) -> None:
    kind, figures = drawing(run)[0]
    seen = []
    choose(opened, "SSDJanus.Meter.Rate", 1)
    try:
        for row in range(1, 9):
            play(opened, (kind, figures | {"rows": row}))
            seen.append(read(opened, SAMPLER)["title"])
            opened.page.wait_for_timeout(50)
        opened.page.wait_for_timeout(1000)
        assert read(opened, SAMPLER)["title"] == f"Row 8 of {ROWS}"  # the last is never left out
    finally:
        choose(opened, "SSDJanus.Meter.Rate", 10)
    assert len(set(seen)) < 5


def test_the_prompt_carries_nothing_of_the_meter(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    prompt = opened.page.evaluate("async () => (await app.graphToPrompt())")
    assert prompt["workflow"]["id"] == GRAPH
    assert "meter" not in prompt["output"][SAMPLER]["inputs"]
    assert "ssd_janus" not in str(prompt)


def test_the_page_reports_no_error(opened: Any) -> None:
    assert opened.errors == []
