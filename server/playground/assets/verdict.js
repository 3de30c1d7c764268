// Two answers side by side: do they say the same, and what did the exit change in cost?

import { make } from "./dom.js";
import { count, percent } from "./format.js";
import { compare } from "./words.js";

function change(name, before, after) {
  if (!before) return null;
  const share = (after - before) / before;
  if (Math.abs(share) < 0.005) return `${name} the same`;
  return `${name} ${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;
}

/** Mark what differs and fill `element` with the verdict. Both runs have ended. */
export function judge(element, without, having) {
  const [left, right] = compare(without.text, having.text);
  const lost = left.filter(({ differs }) => differs).length;
  const gained = right.filter(({ differs }) => differs).length;
  if (lost || gained) {
    without.mark(left);
    having.mark(right);
  }
  const scale = Math.max(...[without, having].map((run) => run.account?.timings.total_ms ?? 0));
  for (const run of [without, having]) run.draw(scale);
  const said = lost || gained
    ? `${count(Math.max(lost, gained), "word differs", "words differ")}`
    : "The same answer";
  const facts = without.account && having.account ? [
    change("compute", without.account.flops.total, having.account.flops.total),
    change("keys and values", without.account.kv_bytes, having.account.kv_bytes),
    change("first token", without.account.timings.ttft_ms, having.account.timings.ttft_ms),
  ] : [];
  element.replaceChildren(
    make("b", {}, said),
    ...facts.filter(Boolean).map((fact) => make("span", {}, fact)));
}
