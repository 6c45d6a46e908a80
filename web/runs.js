// Which graph a run is of. Events name the run alone, and node ids are the same in many graphs: the one on the screen
// may have been opened after the run was queued.

import { api } from "/scripts/api.js";

const PATIENCE = 5000; // milliseconds

let latest; // run, by its id: they come one after the other
let graph; // of it

/** The id of the graph of a run, by default the latest; undefined where the server does not say. */
export function graphOf(run = latest) {
  if (run !== latest) [latest, graph] = [run, ask(run)];
  return graph;
}

async function ask(run) {
  try {
    const answer = await api.fetchApi(`/jobs/${encodeURIComponent(run)}`, { signal: AbortSignal.timeout(PATIENCE) });
    return answer.ok ? (await answer.json()).workflow_id : undefined;
  } catch {
    return undefined;
  }
}
