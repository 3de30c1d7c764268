// A range with its number beside it; where the range is bent, the number says the true value.

import { make } from "./dom.js";
import { setting } from "./format.js";

const EDGE = 7;

/**
 * Aggressiveness on its own scale. A gate fires when its logits differ by more than
 * log((1 − a) / a), so that the range runs evenly over this logarithm; its ends are 0 and 1.
 */
export const aggressiveness = {
  min: -EDGE,
  max: EDGE,
  step: 0.1,
  valueAt: (place) => {
    if (Math.abs(place) >= EDGE) return place < 0 ? 0 : 1;
    return Number(setting(1 / (1 + Math.exp(-place))));
  },
  placeOf: (value) => {
    if (value <= 0 || value >= 1) return value <= 0 ? -EDGE : EDGE;
    return Math.max(-EDGE, Math.min(EDGE, Math.log(value / (1 - value))));
  },
};

/** A scale that is what it shows. */
export const plain = (min, max, step) => (
  { min, max, step, valueAt: (place) => place, placeOf: (value) => value }
);

/** A labelled slider; `ends` are the words under its left, middle and right. */
export class Slider {
  constructor({ id, label, scale, value, ends = [], unit = "", changed }) {
    this.scale = scale;
    const [low, high] = [scale.valueAt(scale.min), scale.valueAt(scale.max)];
    this.range = make("input", {
      type: "range", id, min: scale.min, max: scale.max, step: scale.step,
    });
    this.number = make("input", {
      type: "number", min: low, max: high, step: "any", "aria-label": `${label}, exactly`,
    });
    this.range.addEventListener("input", () => {
      this.value = scale.valueAt(Number(this.range.value));
      changed();
    });
    this.number.addEventListener("input", () => {
      if (!this.number.validity.valid || this.number.value === "") return;
      this.#place(Number(this.number.value));
      changed();
    });
    this.value = value;
    this.element = make("div.slider", {},
      make("label", { for: id }, label),
      make("span.exactly", {}, this.number, unit && ` ${unit}`),
      this.range,
      make("p.ends", { "aria-hidden": "true" }, ...ends.map((end) => make("span", {}, end))));
  }

  get value() {
    return Number(this.number.value);
  }

  set value(value) {
    this.number.value = setting(value);
    this.#place(value);
  }

  #place(value) {
    this.range.value = this.scale.placeOf(value);
    this.range.setAttribute("aria-valuetext", setting(value));
    const { min, max } = this.scale;
    this.range.style.setProperty("--at", `${(100 * (this.range.value - min)) / (max - min)}%`);
  }
}
