// The meter of one node: what it shows, and when.

import { Panel } from "./panel.js";
import { isShown, milliseconds } from "./settings.js";

const NOTHING_YET = "Figures come with the next run.";
const LEAST_WIDTH = 340;

export class Meter {
  constructor(node, parts) {
    this.node = node;
    this.parts = parts;
    this.figures = null; // the last that came
    this.isDrawing = false;
    this.note = NOTHING_YET;
    this.painted = -Infinity; // when
    this.follow();
  }

  /** Follow the settings: be there or not, and in which units. */
  follow() {
    if (isShown() && !this.panel) this.show();
    if (!isShown() && this.panel) this.remove();
    this.paint();
  }

  show() {
    const { node } = this;
    this.panel = new Panel(this.parts);
    const height = this.panel.height;
    this.widget = node.addDOMWidget("meter", "SSD_JANUS_METER", this.panel.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => height + 20,
      getMaxHeight: () => height + 20,
    });
    this.widget.serialize = false;
    const [width, tall] = node.computeSize();
    node.setSize([Math.max(node.size[0], width, LEAST_WIDTH), Math.max(node.size[1], tall)]);
  }

  remove() {
    clearTimeout(this.timer);
    this.timer = undefined;
    const { node, widget } = this;
    this.panel = this.widget = undefined;
    if (widget && node.widgets?.includes(widget)) {
      node.removeWidget(widget);
      node.setSize([node.size[0], node.computeSize()[1]]);
    }
  }

  /** Show the figures of a drawing that goes on. */
  drawing(figures) {
    const begins = !this.isDrawing;
    this.figures = figures;
    this.isDrawing = true;
    const wait = this.painted + milliseconds() - performance.now();
    if (begins || wait <= 0) this.paint();
    else this.timer ??= setTimeout(() => this.paint(), wait);
  }

  /** Show the figures of a drawing that is finished. */
  done(figures) {
    this.figures = figures;
    this.isDrawing = false;
    this.paint();
  }

  /** Show nothing where a drawing ended without a report. */
  stop(note) {
    if (!this.isDrawing) return;
    this.figures = null;
    this.isDrawing = false;
    this.note = note || NOTHING_YET;
    this.paint();
  }

  paint() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.painted = performance.now();
    if (!this.panel) return;
    if (this.figures) this.panel.paint(this.figures, this.isDrawing);
    else this.panel.clear(this.note);
  }
}
