"""What the meters show, and what is told to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.web.recording import Message

KEPT = Path(__file__).parents[2] / "out" / "web"  # screenshots, to be looked at
NOTHING = "Figures come with the next run."
METER = "ssd-janus.meter"

LISTEN = """async () => {
  const { graphOf } = await import('/extensions/ssd-janus/runs.js')
  const heard = (done) => app.api.addEventListener('played', done, { once: true })
  window.played = new Promise(heard).then(() => graphOf())  // the meters wait for it too
}"""
READ = """id => {
  let owner = app.rootGraph ?? app.graph, node
  for (const part of id.split(':')) { node = owner.getNodeById(part); owner = node.subgraph }
  const element = node.widgets.find((widget) => widget.name === 'meter')?.element
  if (!element) return null
  const isShown = (found) => !found.hidden && getComputedStyle(found).visibility !== 'hidden'
  const shown = (selector) => [...element.querySelectorAll(selector)].filter(isShown)
  const texts = (selector) => shown(selector).map((found) => found.textContent)
  const bars = shown('[role=meter]')
  return {
    state: element.dataset.state,
    label: element.ariaLabel,
    title: texts('.state')[0],
    saved: texts('.fold')[0],
    figures: texts('.bar:not([hidden]) .figure'),
    captions: texts('figcaption'),
    spoken: texts('[role=status]')[0],
    pictures: shown('[role=img]').map((found) => found.ariaLabel),
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


def drawing(run: list[Message]) -> list[Message]:
    return [message for message in run if message[0] == METER]
