"""Every shared workflow opens in the page without a missing node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.web.graphs import graph, node

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
assert WORKFLOWS

UNKNOWN = """() => {
  const unknown = new Set()
  const walk = (graph) => {
    for (const node of graph.nodes) {
      if (node.subgraph) walk(node.subgraph)
      else if (!LiteGraph.registered_node_types[node.type]) unknown.add(node.type)
    }
  }
  walk(app.rootGraph ?? app.graph)
  return [...unknown]
}"""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_is_missing(tab: Any, path: Path) -> None:
    workflow = json.loads(path.read_text(encoding="utf-8"))
    tab.load(workflow)
    assert tab.page.evaluate(UNKNOWN) == [], "core nodes the tests do not know yet belong into core_nodes.json"
    loaded = tab.page.evaluate("(app.rootGraph ?? app.graph).nodes.length")
    assert loaded == len(workflow["nodes"])


def test_a_missing_node_is_noticed(tab: Any) -> None:
    whole = graph()
    whole["nodes"].append(node(8, "NobodysNode", 0, 0))
    whole["definitions"]["subgraphs"][0]["nodes"].append(node(9, "NobodysInner", 0, 0))
    tab.load(whole)
    assert sorted(tab.page.evaluate(UNKNOWN)) == ["NobodysInner", "NobodysNode"]
    tab.load(graph())
    assert tab.page.evaluate(UNKNOWN) == []
