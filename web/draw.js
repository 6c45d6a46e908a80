// The two drawings: how the cache grows, and the slots of each head.

const SVG = "http://www.w3.org/2000/svg";

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** A drawing that fills its place, still empty. */
export function picture() {
  return shape("svg", { preserveAspectRatio: "none", role: "img" });
}

/** Draw shapes in width x height units, with a text for those who do not see them. */
function draw(svg, width, height, label, shapes) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  svg.replaceChildren(...shapes);
}

/** The cache row by row, filled as far as it is drawn, against the full cache's line. */
export function curve(svg, memory, rows, label) {
  const own = memory.kv_bytes_by_row;
  const full = memory.kv_bytes_full_by_row;
  const width = own.length - 1;
  const top = memory.kv_bytes_full;
  const line = (bytes) => bytes.map((count, row) => `${row},${(100 * (1 - count / top)).toFixed(2)}`).join(" ");
  const drawn = own.slice(0, rows + 1);
  draw(svg, width, 100, label, [
    shape("polygon", { class: "filled", points: `0,100 ${line(drawn)} ${drawn.length - 1},100` }),
    shape("polyline", { class: "full", points: line(full) }),
    shape("polyline", { class: "own", points: line(own) }),
    shape("line", { class: "now", x1: rows, x2: rows, y1: 0, y2: 100 }),
  ]);
}

/** Layers from top to bottom, heads from left to right: the more slots, the stronger. */
export function heads(svg, slots, label) {
  const squares = new Map(); // of each count
  slots.forEach((layer, y) =>
    layer.forEach((count, x) => squares.set(count, `${squares.get(count) ?? ""}M${x} ${y}h.9v.9h-.9z`)),
  );
  const most = Math.max(...squares.keys());
  const strength = (count) => (0.15 + (0.85 * count) / most).toFixed(3);
  const paths = [...squares].map(([count, d]) => shape("path", { d, "fill-opacity": strength(count) }));
  draw(svg, slots[0].length, slots.length, label, paths);
}
