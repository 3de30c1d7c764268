// The playground: composes a request, streams the answer, shows what its image cost.
// Talks to the same public API as any client; nothing is kept but an API key in this tab.

import * as api from "./api.js";
import { $, make, show } from "./dom.js";
import { offerExamples } from "./examples.js";
import { askForKeys } from "./keys.js";
import { Tray } from "./pictures.js";
import { Policy } from "./policy.js";
import { Run } from "./run.js";
import { judge } from "./verdict.js";

const AGAIN_MS = 2000;
let model = null;
let asking = null; // the AbortController of what runs
let retry = 0;

const tray = new Tray((trouble) => {
  complain(trouble);
  preview();
});
const policy = new Policy(preview);
const wantKey = askForKeys(connect);

function complain(message) {
  $("trouble").textContent = message;
  show($("trouble"), Boolean(message));
}

function tell(state, message) {
  $("model").dataset.state = state;
  $("model").querySelector(".say").textContent = message;
}

function refused(error) {
  if (error.status === 401) wantKey(error.message);
  tell("lost", error.status === 401 ? "A key is needed" : error.message);
}

/** Learn what the server offers; again and again until it does. */
async function connect() {
  clearTimeout(retry);
  try {
    const known = model;
    model = await api.model();
    const { family, num_layers: layers } = model.dyvte;
    tell("ready", `${model.id} · ${family} · ${layers} layers`);
    $("send").disabled = false;
    if (JSON.stringify(known?.dyvte) !== JSON.stringify(model.dyvte)) policy.offer(model);
  } catch (error) {
    refused(error);
    if (error.status !== 401) retry = setTimeout(connect, AGAIN_MS);
  }
}

/** What this is about, until the first answer. */
function welcome() {
  const layers = Array.from({ length: 12 }, (_, at) => make(at < 6 ? "i" : "i.sees"));
  $("welcome").append(
    make("div.words", {},
      make("h2", {}, "An image need not pass through every layer"),
      make("p", {}, "It enters as hundreds of tokens, and every layer computes on all of them. At "
        + "some layer the question has seen enough; from there on the model runs on text alone."),
      make("p", {}, "Ask about a picture: you see after which layer it left, and what that saved.")),
    make("div.idea", { "aria-hidden": "true" }, ...layers));
}

function messages(pictures) {
  const parts = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  return [{ role: "user", content: [...parts, { type: "text", text: $("question").value }] }];
}

function bodyOf({ model: name, exits }, pictures) {
  return {
    model: name,
    messages: messages(pictures),
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    dyvte: { ...exits, report: "full" },
  };
}

function preview() {
  if (!model) return;
  $("compare").disabled = !policy.acts;
  const short = tray.urls.map((url) => `${url.slice(0, url.indexOf(",") + 1)}…`);
  $("wire").querySelector("pre").textContent = JSON.stringify(bodyOf(policy.request(), short), null, 2);
}

function runsWanted() {
  const chosen = [policy.name, policy.request()];
  if (!$("compare").checked || !policy.acts) return [chosen];
  return [["Kept to the end", { model: model.id, exits: { policy: "off" } }], chosen];
}

async function perform(plans) {
  const runs = plans.map(([title]) => new Run(title, model.dyvte.num_layers));
  $("runs").replaceChildren(...runs.map((run) => run.element));
  // One after the other, so that neither takes the other's time.
  for (const [at, run] of runs.entries()) {
    try {
      await run.take(api.chat(bodyOf(plans[at][1], tray.urls), asking.signal));
    } catch (error) {
      run.fail(error);
      for (const other of runs.slice(at + 1)) other.element.remove();
      if (error.status === 401 || error.lost) refused(error);
      if (error.lost) retry = setTimeout(connect, AGAIN_MS);
      return;
    }
  }
  if (runs.length === 2) {
    judge($("verdict"), ...runs);
    show($("verdict"), true);
  }
}

/** On a small screen the answer is below the question: bring it up. */
function comeToSee() {
  const { top } = $("answers").getBoundingClientRect();
  if (top < 0 || top > 0.6 * innerHeight) $("answers").scrollIntoView({ behavior: "smooth" });
}

async function ask() {
  if (!model || asking || !$("question").reportValidity()) return;
  asking = new AbortController();
  complain("");
  $("welcome").replaceChildren();
  show($("verdict"), false);
  show($("send"), false);
  show($("stop"), true);
  const plans = runsWanted();
  $("runs").classList.toggle("pair", plans.length === 2);
  const done = perform(plans);
  comeToSee();
  await done;
  asking = null;
  const stopFocused = document.activeElement === $("stop");
  show($("stop"), false);
  show($("send"), true);
  if (stopFocused) $("send").focus();
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("stop").addEventListener("click", () => asking?.abort());
$("question").addEventListener("input", preview);
$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") asking?.abort();
});
welcome();
offerExamples(tray);
connect();
