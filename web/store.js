// The last report of each node, kept over a reload. It stays out of the workflow, which it would mark as changed.

const KEY = "ssd-janus.reports.1"; // with the number of their format
const GRAPHS = 20; // the latest
const NO_ID = "00000000-0000-0000-0000-000000000000"; // of a graph that was never loaded nor saved

function read() {
  try {
    return new Map(Object.entries(JSON.parse(localStorage.getItem(KEY)) ?? {}));
  } catch {
    return new Map(); // whatever stands there is not ours
  }
}

/** Keep the figures of a node of a graph. */
export function keep(graph, node, figures) {
  if (!graph || graph === NO_ID) return;
  const graphs = read();
  const own = { ...graphs.get(graph), [node]: figures };
  graphs.delete(graph);
  graphs.set(graph, own); // the latest comes last
  try {
    localStorage.setItem(KEY, JSON.stringify(Object.fromEntries([...graphs].slice(-GRAPHS))));
  } catch (error) {
    console.warn("ssd-janus: the browser keeps no report:", error);
  }
}

/** Pairs of node id and figures of a graph. */
export function kept(graph) {
  return Object.entries(read().get(graph) ?? {});
}
