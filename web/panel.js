// What a meter shows: words, bars, and the two drawings.

import { curve, heads } from "./draw.js";
import { barsOf, rowsOf, scaleOf } from "./figures.js";
import { areDecimal } from "./settings.js";
import { fold, human, saving, slots, state } from "./words.js";

export const WHOLE = { bars: ["weights", "cache", "decoder", "free"], curve: true };
export const ONLY_PLANNED = { bars: ["cache"], curve: false };

// as in meter.css
const EDGES = 16;
const WORDS = 36;
const BAR = 20;
const DRAWINGS = 88;

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}

export class Panel {
  constructor(parts) {
    this.parts = parts;
    this.height = EDGES + WORDS + BAR * parts.bars.length + DRAWINGS; // pixels
    this.state = element("strong", "state");
    this.saving = element("span", "saving");
    this.fold = element("span", "fold");
    this.bars = element("div", "bars");
    this.drawings = element("div", "drawings");
    this.spoken = element("p", "spoken"); // heard when a drawing begins or ends, not ten times a second
    this.spoken.role = "status";
    const words = element("div", "words", element("div", "lines", this.state, this.saving), this.fold);
    this.element = element("div", "ssd-janus-meter", words, this.bars, this.drawings, this.spoken);
    this.element.role = "group";
    this.element.tabIndex = 0;
  }

  /** Say that there are no figures, and why. */
  clear(note) {
    this.element.ariaLabel = `KV memory. ${note}`;
    this.become("empty", note);
    this.state.textContent = note;
    this.saving.textContent = this.fold.textContent = "";
    this.bars.replaceChildren();
    this.drawings.replaceChildren();
  }

  paint(figures, isDrawing) {
    const { memory } = figures;
    const decimal = areDecimal();
    this.state.textContent = state(figures, isDrawing);
    this.saving.textContent = saving(memory, decimal);
    this.fold.replaceChildren(`${fold(memory)}×`, element("small", "", "less"));
    const saved = `${saving(memory, decimal)}, ${fold(memory)} times less`;
    this.element.ariaLabel = `KV memory. ${this.state.textContent}. ${saved}.`;
    const bars = barsOf(figures).filter(({ part }) => this.parts.bars.includes(part));
    const scale = scaleOf(bars);
    this.bars.replaceChildren(...bars.map((bar) => barOf(bar, scale, decimal)));
    this.paintDrawings(figures, decimal);
    if (isDrawing) this.become("drawing", "Drawing.");
    else this.become("done", this.element.ariaLabel);
  }

  paintDrawings(figures, decimal) {
    const { memory } = figures;
    if (this.slots !== JSON.stringify(memory.slots)) {
      this.slots = JSON.stringify(memory.slots);
      const counts = slots(memory);
      const about = `Slots of ${memory.slots.length} layers and ${memory.slots[0].length} heads: ${counts}.`;
      const caption = element("figcaption", "", `Slots a head: ${counts}`);
      this.map = element("figure", "heads", heads(memory.slots, about), caption);
    }
    const drawings = [this.map];
    if (this.parts.curve) {
      const rows = rowsOf(figures);
      const own = human(memory.kv_bytes_by_row[rows], decimal);
      const full = human(memory.kv_bytes_full_by_row[rows], decimal);
      const about = `After ${rows} rows the cache holds ${own}, a full cache ${full}.`;
      const caption = `${own}, full ${full}`;
      drawings.unshift(element("figure", "curve", curve(memory, rows, about), element("figcaption", "", caption)));
    }
    this.drawings.replaceChildren(...drawings);
  }

  /** Change the state; what begins and ends with a drawing is spoken, what a page finds on opening is not. */
  become(state, text) {
    const { dataset } = this.element;
    if (dataset.state !== state && (state === "drawing" || dataset.state === "drawing")) this.spoken.textContent = text;
    dataset.state = state;
  }
}

/** A bar with its name and its figure. */
function barOf({ part, label, now, reserved, full }, scale, decimal) {
  const share = (bytes) => `${(100 * Math.min(1, bytes / scale)).toFixed(2)}%`;
  const track = element("div", "track");
  for (const [kind, bytes] of Object.entries({ full, reserved, now })) {
    if (bytes === undefined) continue;
    const fill = element("div", kind);
    fill.style.width = share(bytes);
    track.append(fill);
  }
  const figure = reserved === undefined ? human(now, decimal) : `${human(now, decimal)} of ${human(reserved, decimal)}`;
  const bar = element("div", `bar ${part}`, element("span", "label", label), track, element("span", "figure", figure));
  bar.role = "meter";
  bar.ariaLabel = label;
  bar.ariaValueMin = "0";
  bar.ariaValueMax = `${Math.max(scale, now)}`;
  bar.ariaValueNow = `${now}`;
  bar.ariaValueText = full === undefined ? figure : `${figure}, ${human(full, decimal)} in full`;
  if (now > scale) bar.classList.add("cut");
  return bar;
}
