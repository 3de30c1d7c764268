// The stack of layers, the first at the bottom: how many rows each ran, the image's part in colour.

import { make } from "./dom.js";
import { count } from "./format.js";

const HEIGHT = 252; // pixels, for all layers together
const LINE = 11; // pixels that a label needs

function thickness(layers) {
  const pitch = Math.max(4, Math.min(21, Math.floor(HEIGHT / layers)));
  return [pitch > 9 ? pitch - 4 : pitch - 1, pitch > 9 ? 4 : 1];
}

function bar(part, share) {
  const span = make(`span.${part}`);
  span.style.width = `${100 * share}%`;
  return span;
}

/** `{ text, visual }` rows of each layer; without the full report, from exit layer and usage. */
export function rowsOf(account, usage) {
  const text = usage.prompt_tokens - account.visual_tokens;
  const last = account.exit_layer ?? account.num_layers;
  return Array.from({ length: account.num_layers }, (_, layer) => {
    const ran = account.tokens_per_layer?.[layer];
    const visual = ran === undefined ? (layer <= last ? account.visual_tokens : 0) : ran - text;
    return { text, visual: Math.max(0, visual) };
  });
}

/** The story of the picture in a sentence or two. */
export function sentence(account, rows) {
  const { exit_layer: exit, num_layers: layers, visual_tokens: visual } = account;
  const text = count(rows[0].text, "token");
  if (!visual) return `No image: all ${layers} layers ran on ${text} of text.`;
  const kept = rows[exit ?? layers - 1].visual;
  const image = `the ${count(visual, "visual token")}`;
  if (exit === null && !kept) return `Pruning took out all of ${image}.`;
  if (exit === null && kept < visual) return `Pruning left ${kept} of ${image} to the last layer.`;
  if (exit === null) return `All ${layers} layers saw ${image}.`;
  const left = kept < visual
    ? `Pruning left ${kept} of ${image}, and these went after layer ${exit}.`
    : `${image.replace("the", "The")} left after layer ${exit}.`;
  const others = layers - 1 - exit;
  return others ? `${left} The other ${count(others, "layer")} ran on ${text} of text.` : left;
}

/** The figure. `rows` is null while nothing is known; then only the layers are drawn. */
export function stack(layers, rows, exit = null) {
  const [height, gap] = thickness(layers);
  const most = rows ? Math.max(...rows.map(({ text, visual }) => text + visual)) : 1;
  const pitch = height + gap;
  const clear = (layer) => exit === null || Math.abs(layer - exit) * pitch >= LINE;
  const ends = (layer) => (layer === 0 || layer === layers - 1) && clear(layer);
  const labelled = (layer) => height > 9 || layer === exit || ends(layer);
  let told = -Infinity; // the last layer whose rows were written out
  const items = Array.from({ length: layers }, (_, layer) => {
    const { text, visual } = rows?.[layer] ?? { text: 0, visual: 0 };
    const before = rows?.[layer - 1];
    const changed = rows && (!before || before.visual !== visual || before.text !== text);
    const news = changed && (layer - told) * pitch >= LINE;
    if (news) told = layer;
    const item = make("li", { title: rows ? `Layer ${layer}: ${text} text, ${visual} visual` : null },
      make("span.index", {}, labelled(layer) ? String(layer) : ""),
      make("span.track", {}, bar("text", text / most), bar("visual", visual / most)),
      make("span.rows", {}, news ? `${text + visual} rows` : ""));
    item.classList.toggle("exit", layer === exit && layer < layers - 1);
    return item;
  });
  const list = make("ol.stack", { "aria-hidden": "true" }, ...items);
  list.style.setProperty("--bar", `${height}px`);
  list.style.setProperty("--gap", `${gap}px`);
  return list;
}
