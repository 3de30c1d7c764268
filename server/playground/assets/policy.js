// The controls of "How deep the image goes": only what this model offers, as a request would say it.

import { $, make, show } from "./dom.js";
import { choicesOf } from "./offers.js";
import { Slider, aggressiveness, plain } from "./slider.js";

// Methods whose settings have no single layer; of any other one the layer may be named.
const WITHOUT_LAYER = new Set(["pyramiddrop", "v2drop", "divprune"]);

export class Policy {
  #model;
  #chosen;
  #changed;
  #byRisk = false;

  constructor(changed) {
    this.#changed = changed;
  }

  /** Draw the controls of a model. */
  offer(model) {
    this.#model = model;
    const choices = choicesOf(model);
    const { num_layers: layers, calibrated, prune_methods: methods } = model.dyvte;
    this.#drawSliders(layers, calibrated);
    this.#drawPrune(methods, layers);
    const groups = ["preset", "policy"].map((group) => make("div", {},
      ...choices.filter((choice) => choice.group === group).map((choice) => this.#radio(choice))));
    $("policies").replaceChildren(...groups);
    this.#choose(choices.find((choice) => choice.usual) ?? choices[0]);
  }

  /** What the chosen exit is called. */
  get name() {
    return this.#chosen.label + (this.#pruned() ? ` + ${this.method.value}` : "");
  }

  /** Whether there is anything to compare with the image kept to the end. */
  get acts() {
    return this.#chosen.exits.policy !== "off" || this.#pruned() !== null;
  }

  /** The request's `model` and the exit options of its `dyvte` object. */
  request() {
    const prune = this.#pruned();
    const base = this.#model.id;
    if (this.#chosen.alias && !prune) return { model: this.#chosen.alias, exits: {} };
    const exits = { ...this.#chosen.exits };
    if (this.#chosen.layered) exits.exit_layer = this.layer.value;
    if (this.#chosen.tunable && this.#byRisk) exits.max_risk = this.risk.value / 100;
    else if (this.#chosen.tunable) exits.aggressiveness = this.eager.value;
    return { model: base, exits: prune ? { ...exits, prune } : exits };
  }

  #radio(choice) {
    const input = make("input.unseen", {
      type: "radio", name: "policy", id: choice.id, checked: choice.usual,
      onchange: () => this.#choose(choice),
    });
    const label = make("label.chip", { for: choice.id }, choice.label);
    if (choice.usual) label.append(make("small", {}, "default"));
    return make("span", {}, input, label);
  }

  #choose(choice) {
    this.#chosen = choice;
    $(choice.id).checked = true;
    this.#refresh();
  }

  #refresh() {
    const { tunable, layered, about } = this.#chosen;
    $("promise").textContent = about;
    show(this.layer.element, layered);
    show(this.how, tunable && this.#model.dyvte.calibrated);
    show(this.eager.element, tunable && !this.#byRisk);
    show(this.risk.element, tunable && this.#byRisk);
    this.#changed();
  }

  #drawSliders(layers, calibrated) {
    const changed = () => this.#changed();
    const last = layers - 1;
    this.layer = new Slider({
      id: "exit-layer", label: "Leaves after layer", scale: plain(0, last, 1),
      value: Math.floor(last / 2), ends: ["first", "last"], changed,
    });
    this.eager = new Slider({
      id: "aggressiveness", label: "Aggressiveness", scale: aggressiveness, value: 0.5,
      ends: ["0 never", "0.5 as published", "1 at once"], changed,
    });
    this.risk = new Slider({
      id: "max-risk", label: "Changed answers, at most", scale: plain(0.1, 10, 0.1), value: 1,
      ends: ["careful", "daring"], unit: "%", changed,
    });
    this.#byRisk = false;
    this.how = make("div.how", { role: "group", "aria-label": "How it is set" },
      ...[["By aggressiveness", false], ["By risk", true]].map(([label, byRisk]) => make("button", {
        type: "button", "aria-pressed": String(byRisk === this.#byRisk),
        onclick: (event) => this.#setBy(byRisk, event.currentTarget),
      }, label)));
    show(this.how, calibrated);
    const parts = [this.how, this.eager, this.risk, this.layer];
    $("settings").replaceChildren(...parts.map((part) => part.element ?? part));
  }

  #setBy(byRisk, pressed) {
    this.#byRisk = byRisk;
    for (const button of this.how.children) {
      button.setAttribute("aria-pressed", String(button === pressed));
    }
    this.#refresh();
  }

  #drawPrune(methods, layers) {
    const changed = () => {
      const method = this.method.value;
      show(this.share.element, method !== "");
      show(this.from, method !== "" && !WITHOUT_LAYER.has(method));
      this.#changed();
    };
    this.method = make("select", { id: "prune-method", onchange: changed },
      make("option", { value: "" }, "no pruning"),
      ...methods.map((method) => make("option", { value: method }, method)));
    this.share = new Slider({
      id: "prune-ratio", label: "Share that leaves", scale: plain(0, 1, 0.05), value: 0.5,
      ends: ["none", "all"], changed,
    });
    this.start = make("input", {
      type: "number", id: "prune-layer", min: 1, max: layers - 1, step: 1, placeholder: "usual",
      oninput: changed,
    });
    this.from = make("div.field", {},
      make("label", { for: "prune-layer" }, "Before layer"), this.start);
    $("prune-settings").replaceChildren(
      make("div.field", {}, make("label", { for: "prune-method" }, "Method"), this.method),
      this.share.element, this.from);
    show($("prune"), methods.length > 0);
    show(this.share.element, false);
    show(this.from, false);
  }

  #pruned() {
    const method = this.method?.value;
    if (!method) return null;
    const prune = { method, ratio: this.share.value };
    const named = !WITHOUT_LAYER.has(method) && this.start.value !== "";
    return named ? { ...prune, layer: Number(this.start.value) } : prune;
  }
}
