// The API key: asked for when the server refuses without one, kept for this tab.

import { key } from "./api.js";
import { $, make, show } from "./dom.js";

const PRINTABLE = /^[\x21-\x7e]+$/; // what a header can carry

function dialogOf(use) {
  const reason = make("p");
  const field = make("input", {
    id: "key-field", type: "password", required: true, autocomplete: "off", spellcheck: "false",
    autocapitalize: "off",
  });
  const submit = (event) => {
    event.preventDefault();
    const given = field.value.trim();
    if (!PRINTABLE.test(given)) {
      reason.textContent = "A key has neither spaces nor letters beyond ASCII.";
      return;
    }
    field.value = "";
    dialog.close();
    use(given);
  };
  const dialog = make("dialog", { "aria-labelledby": "key-title" },
    make("form", { autocomplete: "off", novalidate: true, onsubmit: submit },
      make("h2", { id: "key-title" }, "This server asks for a key"),
      reason,
      make("label", { for: "key-field" }, "API key"),
      field,
      make("p.note", {}, "It stays in this tab until the tab is closed, and goes to this server only."),
      make("div.actions", {},
        make("button", { type: "submit" }, "Use key"),
        make("button.plain", { type: "button", onclick: () => dialog.close() }, "Not now"))));
  document.body.append(dialog);
  return (why) => {
    reason.textContent = why;
    if (!dialog.open) dialog.showModal();
  };
}

/** Wires the key; `renewed` is called when one was given or forgotten. The result asks for one. */
export function askForKeys(renewed) {
  let guarded = false;
  const refresh = () => {
    guarded ||= Boolean(key.get());
    $("key").textContent = key.get() ? "Forget key" : "Enter key";
    show($("key"), guarded);
    show($("reference"), !guarded); // a link carries no key, and the reference asks for one
  };
  const ask = dialogOf((given) => {
    key.keep(given);
    refresh();
    renewed();
  });
  $("key").addEventListener("click", () => {
    key.forget();
    refresh();
    renewed();
  });
  refresh();
  return (refusal) => {
    ask(key.get() ? refusal : "Whoever runs it has given you one, or can.");
    key.forget();
    guarded = true;
    refresh();
  };
}
