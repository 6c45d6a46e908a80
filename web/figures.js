// What the server tells, brought into the form that is drawn.

/** Rows that are drawn; of a report or a plan, all. */
export function rowsOf({ rows, memory }) {
  return rows ?? memory.kv_bytes_by_row.length - 1;
}

/** The bars: bytes now, what is reserved for them, what a full cache would take; those that are not known left out. */
export function barsOf(figures) {
  const { memory, free_bytes } = figures;
  const bars = [
    { part: "weights", now: memory.weights_bytes },
    {
      part: "cache",
      now: memory.kv_bytes_by_row[rowsOf(figures)],
      reserved: memory.kv_bytes,
      full: memory.kv_bytes_full,
    },
    { part: "decoder", now: memory.picture_bytes },
    { part: "host", now: memory.host_bytes || undefined }, // only where there are some
    { part: "free", now: free_bytes },
  ];
  return bars.filter(({ now }) => now !== undefined && now !== null);
}

/** Bytes of the longest bar. What is free may be far more than everything else, and is cut there. */
export function scaleOf(bars) {
  return Math.max(...bars.filter(({ part }) => part !== "free").flatMap(({ now, full }) => [now, full ?? 0]));
}
