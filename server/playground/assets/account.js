// What an answer cost: FLOPs by term, keys and values, and where the time went.

import { make } from "./dom.js";
import { bytes, flops, milliseconds, part, percent } from "./format.js";

function line(name, value, from, to, scale, kind = "") {
  const span = make("span", {});
  span.style.marginLeft = `${(100 * from) / scale}%`;
  span.style.width = `${(100 * Math.max(0, to - from)) / scale}%`;
  return make(`div.line${kind}`, {},
    make("dt", {}, name),
    make("dd.bar", { "aria-hidden": "true" }, span),
    make("dd", {}, value));
}

/** Bars one behind the other, as in a waterfall. */
function fall(parts, scale) {
  let at = 0;
  return parts.map(([name, amount, value, kind]) => {
    const from = at;
    at += Math.max(0, amount);
    return line(name, value, from, at, scale, kind);
  });
}

function group(title, total, lines) {
  return make("section.group", {},
    make("h4", {}, make("span", {}, title), make("span", {}, total)),
    make("dl", {}, ...lines));
}

function flopsGroup(cost) {
  const terms = [["Vision tower", "vision"], ["Prefill", "prefill"], ["Decode", "decode"],
    ["Gates, pruning", "gates"], ["LM head", "head"]];
  const parts = terms.map(([name, term]) => [name, cost[term], flops(cost[term])]);
  const lost = cost.saved < 0;
  parts.push([lost ? "Overspent" : "Saved", cost.saved, flops(Math.abs(cost.saved)), ".saved"]);
  const lines = fall(parts, Math.max(cost.baseline, cost.total));
  if (cost.avoided_by_cache) {
    lines.push(line("Found in caches", flops(cost.avoided_by_cache), 0, 0, 1));
  }
  return group("Compute", part(flops, cost.total, cost.baseline), lines);
}

function memoryGroup(account) {
  const { kv_bytes: kept, kv_bytes_saved: saved } = account;
  const all = kept + saved || 1;
  return group("Keys and values", part(bytes, kept, kept + saved),
    fall([["Kept", kept, bytes(kept)], ["Never kept", saved, bytes(saved), ".saved"]], all));
}

function timeGroup(timings, scale) {
  const parts = [["Preprocess", "preprocess_ms"], ["Queue", "queue_ms"], ["Vision", "vision_ms"],
    ["Prefill", "prefill_ms"]].map(([name, part]) => [name, timings[part]]);
  const rest = timings.ttft_ms - parts.reduce((sum, [, ms]) => sum + ms, 0);
  if (rest > 0.01 * timings.total_ms) parts.push(["In between", rest]);
  parts.push(["Decode", timings.decode_ms]);
  const lines = fall(parts.map(([name, ms]) => [name, ms, milliseconds(ms)]), scale);
  const total = `first token ${milliseconds(timings.ttft_ms)}, all ${milliseconds(timings.total_ms)}`;
  return group("Time", total, lines);
}

/** The groups; `scale` in milliseconds makes the times of several answers comparable. */
export function accountOf(account, scale = account.timings.total_ms) {
  return make("div.account", {},
    flopsGroup(account.flops), memoryGroup(account), timeGroup(account.timings, scale || 1));
}

/** The figure that counts, in large type. */
export function headline(account) {
  const { saved_ratio: saved } = account.flops;
  return make("p.headline", {},
    make("b", {}, percent(Math.abs(saved))),
    make("span", {}, saved < 0 ? "more compute than without" : "of the compute saved"));
}
