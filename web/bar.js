// A bar with its name and its figure.

import { element } from "./element.js";
import { texts } from "./texts.js";
import { human } from "./words.js";

export class Bar {
  constructor(part) {
    this.track = element("div", "track");
    this.figure = element("span", "figure");
    const label = texts()[part];
    this.element = element("div", `bar ${part}`, element("span", "label", label), this.track, this.figure);
    this.element.role = "meter";
    this.element.ariaLabel = label;
    this.element.ariaValueMin = "0";
  }

  /** Show bytes, of which the scale takes the whole width. */
  paint({ now, reserved, full }, scale, decimal) {
    const { against, share } = texts();
    const fills = Object.entries({ full, reserved, now }).filter(([, bytes]) => bytes !== undefined);
    this.track.replaceChildren(...fills.map(([kind, bytes]) => fillOf(kind, bytes / scale)));
    const figure = reserved === undefined ? human(now, decimal) : share(human(now, decimal), human(reserved, decimal));
    this.figure.textContent = figure;
    this.element.ariaValueMax = `${Math.max(scale, now)}`;
    this.element.ariaValueNow = `${now}`;
    this.element.ariaValueText = full === undefined ? figure : against(figure, human(full, decimal));
    this.element.classList.toggle("cut", now > scale);
  }
}

function fillOf(kind, share) {
  const fill = element("div", kind);
  fill.style.width = `${(100 * Math.min(1, share)).toFixed(2)}%`;
  return fill;
}
