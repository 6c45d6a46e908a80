// What a meter shows: words, bars, and the two drawings.

import { Bar } from "./bar.js";
import { curve, heads, picture } from "./draw.js";
import { element } from "./element.js";
import { barsOf, rowsOf, scaleOf } from "./figures.js";
import { areDecimal } from "./settings.js";
import { language, texts } from "./texts.js";
import { fold, human, saving, slots, state } from "./words.js";

export const WHOLE = { begins: "reading", bars: ["weights", "cache", "decoder", "host", "free"], curve: true };
export const ONLY_PLANNED = { begins: "planning", bars: ["cache"], curve: false };

// as in meter.css
const EDGES = 16;
const WORDS = 36;
const BAR = 20;
const DRAWINGS = 88;

const RUNNING = new Set(["begun", "drawing"]);

/** A drawing and the words below it. */
function figure(className) {
  const made = { drawing: picture(), caption: element("figcaption", "") };
  return { ...made, element: element("figure", className, made.drawing, made.caption) };
}

/** Its parts stay and are filled anew, so that a screen reader keeps its place in them. */
export class Panel {
  constructor(parts) {
    this.height = EDGES + WORDS + BAR * parts.bars.length + DRAWINGS; // pixels
    this.state = element("strong", "state");
    this.saving = element("span", "saving");
    this.fold = element("span", "fold");
    this.bars = new Map(parts.bars.map((part) => [part, new Bar(part)]));
    this.figures = parts.curve ? { curve: figure("curve"), heads: figure("heads") } : { heads: figure("heads") };
    this.spoken = element("p", "spoken"); // heard when a run begins or ends, not ten times a second
    this.spoken.role = "status";
    const words = element("div", "words", element("div", "lines", this.state, this.saving), this.fold);
    const bars = element("div", "bars", ...[...this.bars.values()].map((bar) => bar.element));
    const drawings = element("div", "drawings", ...Object.values(this.figures).map((made) => made.element));
    this.element = element("div", "ssd-janus-meter", words, bars, drawings, this.spoken);
    this.element.role = "group";
    this.element.lang = language();
    this.element.tabIndex = 0;
  }

  /** Say why there are no figures. */
  clear(note, isRunning) {
    this.state.textContent = note;
    this.become(isRunning ? "begun" : "empty", note, texts().label(note));
  }

  paint(figures, isDrawing) {
    const { memory } = figures;
    const decimal = areDecimal();
    const { drawing, label, less, saved, sentence } = texts();
    this.state.textContent = state(figures, isDrawing);
    this.saving.textContent = saving(memory, decimal);
    this.fold.replaceChildren(`${fold(memory)}×`, element("small", "", less));
    this.paintBars(figures, decimal);
    this.paintHeads(memory);
    if (this.figures.curve) this.paintCurve(figures, decimal);
    const saves = saved(this.saving.textContent, fold(memory));
    const report = label(sentence(this.state.textContent), saves);
    if (isDrawing) this.become("drawing", drawing, label(drawing, saves));
    else this.become("done", report, report);
  }

  paintBars(figures, decimal) {
    const bars = barsOf(figures).filter(({ part }) => this.bars.has(part));
    const scale = scaleOf(bars);
    for (const [part, bar] of this.bars) {
      const bytes = bars.find((own) => own.part === part);
      bar.element.hidden = !bytes;
      if (bytes) bar.paint(bytes, scale, decimal);
    }
  }

  paintHeads(memory) {
    if (this.slots === JSON.stringify(memory.slots)) return;
    this.slots = JSON.stringify(memory.slots);
    const { drawing, caption } = this.figures.heads;
    const counts = slots(memory);
    heads(drawing, memory.slots, texts().slotsOf(memory.slots.length, memory.slots[0].length, counts));
    caption.textContent = texts().slots(counts);
  }

  paintCurve(figures, decimal) {
    const { memory } = figures;
    const rows = rowsOf(figures);
    const own = human(memory.kv_bytes_by_row[rows], decimal);
    const full = human(memory.kv_bytes_full_by_row[rows], decimal);
    const { drawing, caption } = this.figures.curve;
    curve(drawing, memory, rows, texts().sizesAfter(rows, own, full));
    caption.textContent = texts().sizes(own, full);
  }

  /** Change the state, and speak of it; what a page finds on opening is not spoken, nor what is done at once. */
  become(state, said, label) {
    const { dataset } = this.element;
    const before = dataset.state;
    dataset.state = state;
    this.element.ariaLabel = label; // it has no figures of a row, lest it is read anew at each where it has the focus
    if (!before || before === state || (state === "done" && !RUNNING.has(before))) return;
    this.spoken.textContent = said;
  }
}
