"""What the page reports of the pack fails a test."""

from __future__ import annotations

from typing import Any

from tests.web.graphs import graph

BROKEN = """() => app.registerExtension({
  name: 'ssd-janus.broken',
  nodeCreated() { if (window.isBroken) throw new Error('broken') },
})"""


def test_what_an_extension_throws_is_noticed(tab: Any) -> None:
    tab.page.evaluate(BROKEN)
    tab.page.evaluate("window.isBroken = true")
    tab.load(graph())
    tab.page.evaluate("window.isBroken = false")
    assert "ssd-janus.broken" in tab.errors[0]
    tab.errors.clear()
