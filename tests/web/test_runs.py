"""What a meter shows of runs that fail, that begin anew, and that are of other graphs."""

from __future__ import annotations

from typing import Any

import pytest

from tests.web.graphs import COMPRESSION, GRAPH, OTHER, SAMPLER, graph
from tests.web.meters import NOTHING, drawing, figures_of, play, read
from tests.web.recording import PROMPT, Message

ANOTHER = "11111111-1111-4111-8111-111111111111"  # graph
READING = "Reading the prompt."
ENDS = [
    ("execution_error", "The last run stopped with an error."),
    ("execution_interrupted", "The last run was interrupted."),
    ("execution_success", NOTHING),
]
ERROR = {"node_id": SAMPLER, "node_type": "SSDJanusSampler", "executed": [], "exception_message": "No.",
         "exception_type": "UserError", "traceback": [], "current_inputs": {}, "current_outputs": []}  # fmt: skip


def executing(node: str, prompt: dict[str, Any] = PROMPT) -> Message:
    return "executing", prompt | {"node": node, "display_node": node}


def executed(node: str, figures: dict[str, Any], prompt: dict[str, Any] = PROMPT) -> Message:
    return "executed", prompt | {"node": node, "display_node": node, "output": {"ssd_janus": [figures]}}


def end(tab: Any, how: str) -> None:
    play(tab, (how, PROMPT | ERROR))
    tab.page.keyboard.press("Escape")  # the page's own report of the error


def nothing_but(note: str) -> dict[str, Any]:
    return {"state": "empty", "title": note, "now": {}, "captions": [], "label": f"KV memory. {note}"}


@pytest.mark.parametrize(("how", "note"), ENDS)
def test_a_run_that_ends_without_a_report_leaves_nothing(opened: Any, run: list[Message], how: str, note: str) -> None:
    play(opened, run[0], *drawing(run)[:3])
    assert read(opened, SAMPLER)["state"] == "drawing"
    end(opened, how)
    assert read(opened, SAMPLER).items() >= nothing_but(note).items()


@pytest.mark.parametrize(("how", "note"), ENDS)
def test_a_run_that_ends_before_its_first_row_leaves_nothing(
    opened: Any, run: list[Message], how: str, note: str
) -> None:
    play(opened, *run)
    assert read(opened, SAMPLER)["state"] == "done"
    play(opened, run[0], executing(SAMPLER))
    opened.meters("begun").wait_for()
    meter = read(opened, SAMPLER)
    assert meter.items() >= (nothing_but(READING) | {"state": "begun", "spoken": READING}).items()
    end(opened, how)
    assert read(opened, SAMPLER).items() >= (nothing_but(note) | {"spoken": note}).items()


def test_a_plan_that_fails_at_once_leaves_nothing(opened: Any, run: list[Message]) -> None:
    play(opened, *run, run[0], executing(COMPRESSION), ("execution_error", PROMPT | ERROR))
    opened.page.keyboard.press("Escape")
    assert read(opened, COMPRESSION).items() >= nothing_but(ENDS[0][1]).items()
    assert read(opened, SAMPLER)["state"] == "done"


def test_a_server_that_dies_leaves_nothing(opened: Any, run: list[Message]) -> None:
    play(opened, run[0], *drawing(run)[:3])
    opened.page.evaluate("() => app.api.addEventListener('reconnected', () => { window.isBack = true })")
    opened.server.hang_up()
    opened.page.wait_for_function("window.isBack")
    assert read(opened, SAMPLER).items() >= nothing_but("The connection to the server was lost.").items()
    play(opened, *drawing(run)[3:5])  # it was the line alone
    assert read(opened, SAMPLER)["state"] == "drawing"


def test_what_is_left_without_a_model_is_forgotten(opened: Any, run: list[Message]) -> None:
    note = "Connect a model to see slots and bytes."
    play(opened, *run)
    assert read(opened, COMPRESSION)["state"] == "done"
    play(opened, run[0], executing(COMPRESSION), executed(COMPRESSION, {"workflow": GRAPH, "memory": None}))
    assert read(opened, COMPRESSION).items() >= nothing_but(note).items()
    opened.load(graph())
    assert read(opened, COMPRESSION).items() >= nothing_but(note).items()
    assert read(opened, SAMPLER)["state"] == "done"


def test_another_graph_s_run_is_not_shown(opened: Any, run: list[Message]) -> None:
    prompt = {"prompt_id": "of a server that tells no graph"}
    kind, figures = drawing(run)[0]
    play(opened, ("execution_start", prompt), (kind, figures | {"workflow": ANOTHER}))
    assert read(opened, SAMPLER)["state"] == "empty"
    play(opened, executed(SAMPLER, figures_of(run, SAMPLER) | {"workflow": ANOTHER}, prompt))
    assert read(opened, SAMPLER)["state"] == "empty"
    opened.load(graph() | {"id": ANOTHER})
    assert read(opened, SAMPLER)["state"] == "done"
    play(opened, (kind, figures | {"workflow": None}))  # a client that tells no graph
    assert read(opened, SAMPLER)["state"] == "drawing"


def test_another_graph_s_run_takes_nothing_away(opened: Any, run: list[Message]) -> None:
    play(opened, *run)
    opened.server.graphs["of another"] = ANOTHER
    prompt = {"prompt_id": "of another"}
    play(opened, ("execution_start", prompt), executing(SAMPLER, prompt), ("execution_interrupted", prompt | ERROR))
    assert read(opened, SAMPLER)["state"] == "done"


def test_what_comfyui_has_kept_of_another_graph_s_run_is_shown(opened: Any, run: list[Message]) -> None:
    shown = figures_of(run, SAMPLER)
    cached = ("execution_cached", PROMPT | {"nodes": [SAMPLER]})
    play(opened, run[0], cached, executed(SAMPLER, shown | {"workflow": ANOTHER}))
    assert read(opened, SAMPLER)["state"] == "done"
    assert read(opened, OTHER)["state"] == "empty"
    opened.load(graph())
    assert read(opened, SAMPLER)["state"] == "done"


def test_what_comfyui_has_kept_goes_to_the_graph_that_was_queued(opened: Any, run: list[Message]) -> None:
    opened.load(graph() | {"id": ANOTHER})  # while the run waits its turn
    cached = ("execution_cached", PROMPT | {"nodes": [SAMPLER]})
    play(opened, run[0], cached, executed(SAMPLER, figures_of(run, SAMPLER)))
    assert read(opened, SAMPLER)["state"] == "empty"
    opened.load(graph() | {"id": ANOTHER})
    assert read(opened, SAMPLER)["state"] == "empty"
    opened.load(graph())
    assert read(opened, SAMPLER)["state"] == "done"
