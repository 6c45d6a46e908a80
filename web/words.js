// Figures in words.

import { texts } from "./texts.js";

const BINARY = ["B", "KiB", "MiB", "GiB"];
const DECIMAL = ["B", "kB", "MB", "GB"];

/** Bytes in the unit that a person would choose, of three digits; gigabytes with two decimals. */
export function human(bytes, decimal) {
  const [step, units] = decimal ? [1000, DECIMAL] : [1024, BINARY];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) {
    bytes /= step;
    unit += 1;
  }
  if (unit === units.length - 1) return `${bytes.toFixed(2)} ${units[unit]}`;
  return `${Number(bytes.toPrecision(3))} ${units[unit]}`;
}

/** How many times smaller the cache is than the full one: "5.0". */
export function fold(memory) {
  return (memory.kv_bytes_full / memory.kv_bytes).toFixed(1);
}

/** "115", or "80 to 173". */
export function slots(memory) {
  const counts = memory.slots.flat();
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  return least === most ? `${most}` : texts().range(least, most);
}

/** How far a drawing is, or that it is planned. */
export function state({ rows, tokens_per_second, memory }, isDrawing) {
  const { drawn, planned, row, speed } = texts();
  const grid = memory.kv_bytes_by_row.length - 1;
  if (!isDrawing && tokens_per_second === undefined) return planned;
  const far = isDrawing ? row(rows, grid) : drawn(grid);
  return tokens_per_second ? `${far} · ${speed(Math.round(tokens_per_second))}` : far;
}

/** What the cache saves. */
export function saving(memory, decimal) {
  const { fullCache, saving } = texts();
  const full = human(memory.kv_bytes_full, decimal);
  return memory.kv_bytes === memory.kv_bytes_full ? fullCache(full) : saving(human(memory.kv_bytes, decimal), full);
}
