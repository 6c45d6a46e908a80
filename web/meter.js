// The meter of one node: what it shows, and when.

import { Panel } from "./panel.js";
import { isShown, milliseconds } from "./settings.js";
import { texts } from "./texts.js";

const LEAST_WIDTH = 340;
const BRIEF = 100; // milliseconds: what takes less is not announced

export class Meter {
  constructor(node, parts) {
    this.node = node;
    this.parts = parts;
    this.figures = null; // the last that came
    this.isRunning = false;
    this.note = "nothingYet"; // why there are no figures, a name in texts.js
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
    const { node, widget } = this;
    this.panel = this.widget = undefined;
    node.removeWidget(widget);
    node.setSize([node.size[0], node.computeSize()[1]]);
  }

  /** A run comes to the node: what is shown is of an earlier one. */
  begin() {
    this.figures = null;
    this.isRunning = true;
    this.note = this.parts.begins;
    this.paintIn(BRIEF);
  }

  /** Show the figures of a drawing that goes on. */
  drawing(figures) {
    const isFirst = !this.isRunning || !this.figures;
    this.figures = figures;
    this.isRunning = true;
    this.paintIn(isFirst ? 0 : this.painted + milliseconds() - performance.now());
  }

  /** Show the figures that a node came to; a plan without a model has none. */
  done(figures) {
    this.figures = figures;
    this.isRunning = false;
    if (figures?.memory === null) this.note = "noModel";
    this.paint();
  }

  /** Show nothing where a run ended without figures. */
  stop(note) {
    if (!this.isRunning) return;
    this.figures = null;
    this.isRunning = false;
    this.note = note;
    this.paint();
  }

  paintIn(wait) {
    if (wait <= 0) this.paint();
    else this.timer ??= setTimeout(() => this.paint(), wait);
  }

  paint() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.painted = performance.now();
    if (!this.panel) return;
    if (!this.figures?.memory) return this.panel.clear(texts()[this.note], this.isRunning);
    try {
      this.panel.paint(this.figures, this.isRunning);
    } catch (error) {
      console.warn("ssd-janus: figures that cannot be shown:", error); // a browser keeps what other versions wrote
      this.panel.clear(texts()[this.note], false);
    }
  }
}
