// Nodes by the ids that the server knows them by.

import { app } from "/scripts/app.js";

function root() {
  return app.rootGraph ?? app.graph;
}

/** The id of the whole graph, which the server is told with each prompt. */
export function graphId() {
  return root()?.id;
}

/** The node of an id such as "4:1": node 1 in the subgraph that node 4 stands for. */
export function nodeOf(id) {
  let graph = root();
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

/** All nodes, those in subgraphs too. */
export function* nodes(graph = root()) {
  for (const node of graph?.nodes ?? []) {
    yield node;
    if (node.subgraph) yield* nodes(node.subgraph);
  }
}
