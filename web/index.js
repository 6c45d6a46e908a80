// Shows in the nodes where the memory of a drawing goes.

import { api } from "/scripts/api.js";
import { app } from "/scripts/app.js";
import { Meter } from "./meter.js";
import { graphId, nodeOf, nodes } from "./graph.js";
import { ONLY_PLANNED, WHOLE } from "./panel.js";
import { graphOf } from "./runs.js";
import { settings, whenSet } from "./settings.js";
import { keep, kept } from "./store.js";

const EVENT = "ssd-janus.meter";
const FIGURES = "ssd_janus"; // in what a node shows, see nodes/meter.py
const PARTS = { SSDJanusSampler: WHOLE, SSDJanusReadout: WHOLE, SSDJanusCompression: ONLY_PLANNED };

const meters = new WeakMap(); // of nodes: those that are copied have a model that never comes into a graph nor leaves it

function meterOf(id) {
  return meters.get(nodeOf(id));
}

function forEachMeter(act) {
  for (const node of nodes()) if (meters.has(node)) act(meters.get(node));
}

function onDrawing({ node, workflow, ...figures }) {
  if (!workflow || workflow === graphId()) meterOf(node)?.drawing(figures);
}

function onExecuting(id, graph) {
  if (id && graph && graph === graphId()) meterOf(id)?.begin();
}

function onExecuted({ node, display_node, output }, graph) {
  const [figures] = output?.[FIGURES] ?? [];
  if (!figures) return;
  const id = display_node ?? node;
  const own = graph ?? figures.workflow ?? graphId(); // what ComfyUI had kept tells of the graph that it was made for
  keep(own, id, figures);
  if (own === graphId()) meterOf(id)?.done(figures);
}

/** A run ended: what has not come to its report by now never will. */
function onEnd(note) {
  return () => forEachMeter((meter) => meter.stop(note));
}

/** Hear an event, with the graph of its run; none is heard before one that came earlier. */
function hear(event, listener) {
  api.addEventListener(event, async ({ detail }) => listener(detail, await graphOf(detail?.prompt_id)));
}

app.registerExtension({
  name: "ssd-janus.meter",
  settings,

  setup() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./meter.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener("execution_start", ({ detail }) => graphOf(detail.prompt_id));
    hear("executing", onExecuting);
    hear(EVENT, onDrawing);
    hear("executed", onExecuted);
    hear("execution_success", onEnd("nothingYet"));
    hear("execution_error", onEnd("failed"));
    hear("execution_interrupted", onEnd("interrupted"));
    hear("reconnecting", onEnd("lost"));
    whenSet(() => forEachMeter((meter) => meter.follow()));
  },

  nodeCreated(node) {
    const parts = PARTS[node.comfyClass];
    if (parts) meters.set(node, new Meter(node, parts));
  },

  /** After a reload, or when its tab is opened again, a graph shows its last report. */
  afterConfigureGraph() {
    for (const [id, figures] of kept(graphId())) meterOf(id)?.done(figures);
  },
});
