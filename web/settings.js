// What the user can choose, in ComfyUI's own settings.

import { app } from "/scripts/app.js";

const SHOWN = "SSDJanus.Meter.Shown";
const RATE = "SSDJanus.Meter.Rate";
const UNITS = "SSDJanus.Meter.Units";
const listeners = [];

function onChange() {
  for (const listener of listeners) listener();
}

export const settings = [
  {
    id: SHOWN,
    category: ["SSD Janus", "Memory readout", "Shown"],
    name: "Show the memory readout in the nodes",
    type: "boolean",
    defaultValue: true,
    onChange,
  },
  {
    id: RATE,
    category: ["SSD Janus", "Memory readout", "Rate"],
    name: "Updates a second",
    tooltip: "At most; the server sends ten.",
    type: "slider",
    attrs: { min: 1, max: 10, step: 1 },
    defaultValue: 10,
    onChange,
  },
  {
    id: UNITS,
    category: ["SSD Janus", "Memory readout", "Units"],
    name: "Units of memory",
    type: "combo",
    options: [
      { text: "KiB, MiB, GiB (1024)", value: "binary" },
      { text: "kB, MB, GB (1000)", value: "decimal" },
    ],
    defaultValue: "binary",
    onChange,
  },
];

function get(id) {
  const { defaultValue } = settings.find((setting) => setting.id === id);
  return app.extensionManager?.setting?.get(id) ?? defaultValue;
}

export const isShown = () => get(SHOWN);
export const milliseconds = () => 1000 / get(RATE);
export const areDecimal = () => get(UNITS) === "decimal";

/** Call when a setting changes. */
export function whenSet(listener) {
  listeners.push(listener);
}
