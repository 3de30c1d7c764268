// What can be chosen, as `/v1/models` says it: presets with what was measured of them, policies.

import { count, percent, setting } from "./format.js";

const NAMES = { gate: "Gates", state: "State", fixed: "Fixed layer", vtw: "VTW", off: "Off" };
const ABOUT = {
  gate: "A small gate after each layer decides whether the question has seen enough.",
  state: "The model's own state decides, by a calibration and without gates.",
  fixed: "After one layer, whatever the question.",
  vtw: "After the layer that a calibration found for all questions.",
  off: "The image stays to the last layer.",
};

function capital(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

function meaning(exits) {
  if (exits.policy === "fixed") return `Leaves after layer ${exits.exit_layer}.`;
  if (exits.aggressiveness === undefined) return ABOUT[exits.policy] ?? "";
  return `${NAMES[exits.policy] ?? exits.policy} at aggressiveness ${setting(exits.aggressiveness)}.`;
}

function measurement(record) {
  if (!record?.single) return "";
  const { samples, changed, prefill_saved: saved } = record.single;
  const promise = record.max_risk === null
    ? "No promise."
    : `At most ${percent(record.max_risk)} changed answers, with ${percent(record.confidence)} confidence.`;
  return `${promise} Measured on ${count(samples, "question")}: ${percent(changed / samples)} changed, `
    + `${percent(saved)} of the prefill saved.`;
}

/** Presets: an alias of the model each, unless pruning is added, which wants the options. */
function presetsOf({ id, dyvte: offer }) {
  const usual = JSON.stringify(offer.default);
  const presets = Object.entries(offer.presets).filter(([, exits]) => exits.policy !== "off");
  const choices = presets.map(([name, exits]) => ({
    id: name,
    label: capital(name),
    group: "preset",
    exits,
    alias: `${id}:${name}`,
    usual: JSON.stringify(exits) === usual,
    about: [meaning(exits), measurement(offer.measured[name])].filter(Boolean).join(" "),
  }));
  if (offer.default.policy === "off" || choices.some((choice) => choice.usual)) return choices;
  const own = { id: "default", label: "Default", group: "preset", alias: id, usual: true };
  return [{ ...own, exits: offer.default, about: meaning(offer.default) }, ...choices];
}

/** All choices, "off" first, the server's default marked `usual`. */
export function choicesOf(model) {
  const offer = model.dyvte;
  const policies = offer.policies.map((name) => ({
    id: `policy-${name}`,
    label: NAMES[name] ?? name,
    group: name === "off" ? "preset" : "policy",
    exits: { policy: name },
    usual: name === "off" && offer.default.policy === "off",
    about: [ABOUT[name], name === "off" && offer.exits_hint].filter(Boolean).join(" "),
    tunable: name === "gate" || name === "state",
    layered: name === "fixed",
  }));
  const off = policies.filter((choice) => choice.group === "preset");
  const others = policies.filter((choice) => choice.group === "policy");
  return [...off, ...presetsOf(model), ...others];
}
