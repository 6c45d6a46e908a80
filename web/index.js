// Shows in the nodes where the memory of a drawing goes.

import { api } from "/scripts/api.js";
import { app } from "/scripts/app.js";
import { Meter } from "./meter.js";
import { graphId, nodeOf } from "./graph.js";
import { ONLY_PLANNED, WHOLE } from "./panel.js";
import { settings, whenSet } from "./settings.js";
import { keep, kept } from "./store.js";

const EVENT = "ssd-janus.meter";
const FIGURES = "ssd_janus"; // in what a node shows, see nodes/meter.py
const PARTS = { SSDJanusSampler: WHOLE, SSDJanusReadout: WHOLE, SSDJanusCompression: ONLY_PLANNED };

const meters = new Map(); // of the nodes that are there
let cached = new Set(); // nodes of the run that ComfyUI need not execute again

function meterOf(id) {
  return meters.get(nodeOf(id));
}

/** Whether figures are of the graph on the screen; node ids are the same in many graphs. */
function isHere(workflow) {
  return !workflow || workflow === graphId();
}

function onDrawing({ detail }) {
  if (isHere(detail.workflow)) meterOf(detail.node)?.drawing(detail);
}

function onExecuted({ detail }) {
  const [figures] = detail.output?.[FIGURES] ?? [];
  if (!figures) return;
  const id = detail.display_node ?? detail.node;
  // what ComfyUI kept may come of another graph with the same nodes
  const graph = (!cached.has(detail.node) && figures.workflow) || graphId();
  keep(graph, id, figures);
  if (isHere(graph)) meterOf(id)?.done(figures);
}

/** A run ended: what has not come to its report by now never will. */
function onEnd(how) {
  return () => {
    for (const meter of meters.values()) meter.stop(how);
  };
}

app.registerExtension({
  name: "ssd-janus.meter",
  settings,

  setup() {
    const style = document.createElement("link");
    style.rel = "stylesheet";
    style.href = new URL("./meter.css", import.meta.url).href;
    document.head.append(style);
    api.addEventListener(EVENT, onDrawing);
    api.addEventListener("execution_cached", ({ detail }) => (cached = new Set(detail.nodes)));
    api.addEventListener("executed", onExecuted);
    api.addEventListener("execution_success", onEnd(""));
    api.addEventListener("execution_error", onEnd("The last run stopped with an error."));
    api.addEventListener("execution_interrupted", onEnd("The last run was interrupted."));
    whenSet(() => {
      for (const meter of meters.values()) meter.follow();
    });
  },

  nodeCreated(node) {
    const parts = PARTS[node.comfyClass];
    if (!parts) return;
    meters.set(node, new Meter(node, parts));
    const removed = node.onRemoved;
    node.onRemoved = function (...given) {
      meters.get(node)?.remove();
      meters.delete(node);
      return removed?.apply(this, given);
    };
  },

  /** After a reload, or when its tab is opened again, a graph shows its last report. */
  afterConfigureGraph() {
    for (const [id, figures] of kept(graphId())) meterOf(id)?.done(figures);
  },
});
