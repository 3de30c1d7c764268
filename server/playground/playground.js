// The playground: one question about one picture, streamed, with the account of its exit.
// Talks to the same public API as any client; nothing is kept.
"use strict";

const TAKEN = ["image/png", "image/jpeg", "image/webp", "image/gif"];
const $ = (id) => document.getElementById(id);
let picture = null;
let model = null;
let running = null;

async function describeModel() {
  const reply = await fetch("/v1/models");
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error.message);
  model = body.data[0];
  const { num_layers: layers, policies, has_gates: gated, exits_hint: hint } = model.dyvte;
  $("model").textContent = `${model.id} · ${layers} layers · ${policies.join(", ")}`;
  $("exits").disabled = !gated;
  if (!gated) $("exits-note").textContent = hint || "This model has no gates.";
}

async function showModel() {
  try {
    await describeModel();
  } catch (error) {
    $("model").textContent = error.message;
    setTimeout(showModel, 2000);
  }
}

function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

// What the browser can draw but the server does not take is sent as PNG.
async function redrawn(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.toDataURL("image/png");
}

async function choose(file) {
  if (!file) return;
  try {
    picture = TAKEN.includes(file.type) ? await asDataUrl(file) : await redrawn(file);
    $("preview").src = picture;
    $("preview").hidden = false;
    $("hint").hidden = true;
    $("error").textContent = "";
  } catch {
    $("error").textContent = "This file is not a picture that the browser can read.";
  }
}

function requestBody() {
  const content = [{ type: "text", text: $("question").value }];
  if (picture) content.unshift({ type: "image_url", image_url: { url: picture } });
  const body = {
    model: model.id,
    messages: [{ role: "user", content }],
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
  };
  if (!$("exits").disabled) body.dyvte = { aggressiveness: Number($("aggressiveness").value) };
  return body;
}

async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

function showAccount(account, usage) {
  const { exit_layer: exit, num_layers: layers, flops, timings } = account;
  const last = exit === null ? layers - 1 : exit;
  const cells = Array.from({ length: layers }, (_, layer) => {
    const cell = document.createElement("span");
    cell.className = layer <= last && account.visual_tokens ? "sees" : "";
    return cell;
  });
  $("depth").replaceChildren(...cells);
  const rows = {
    "Image seen": account.visual_tokens === 0 ? "no image"
      : exit === null ? `in all ${layers} layers`
      : `in layers 0–${exit} of ${layers}`,
    "FLOPs saved": `${(100 * flops.saved_ratio).toFixed(1)} %`,
    "First token": `${timings.ttft_ms.toFixed(0)} ms`,
    "Total": `${timings.total_ms.toFixed(0)} ms`,
    "Tokens": `${usage.prompt_tokens} in (${account.visual_tokens} visual), ${usage.completion_tokens} out`,
  };
  $("account").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const fact = document.createElement("dd");
    term.textContent = name;
    fact.textContent = value;
    return [term, fact];
  }));
}

async function ask() {
  running = new AbortController();
  const response = await fetch("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(requestBody()),
    signal: running.signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  for await (const chunk of eventsOf(response)) {
    if (chunk.error) throw new Error(chunk.error.message);
    for (const choice of chunk.choices) $("answer").textContent += choice.delta.content ?? "";
    if (chunk.dyvte) showAccount(chunk.dyvte, chunk.usage);
  }
}

function busy(yes) {
  $("send").disabled = yes;
  $("stop").hidden = !yes;
}

$("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!model) return;
  $("answer").textContent = "";
  $("error").textContent = "";
  $("account").replaceChildren();
  $("depth").replaceChildren();
  busy(true);
  try {
    await ask();
  } catch (error) {
    if (error.name !== "AbortError") $("error").textContent = error.message;
  } finally {
    busy(false);
  }
});
$("stop").addEventListener("click", () => running.abort());
$("image").addEventListener("change", () => choose($("image").files[0]));
$("aggressiveness").addEventListener("input", () => {
  $("value").textContent = Number($("aggressiveness").value).toFixed(2);
});
for (const name of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
showModel();
