// The API key: asked for when the server refuses without one, kept for this tab.

import { key } from "./api.js";
import { $, show } from "./dom.js";

const PRINTABLE = /^[\x21-\x7e]+$/; // what a header can carry

/** Wires the dialog; `renewed` is called when a key was given or forgotten. */
export function askForKeys(renewed) {
  const dialog = $("key-dialog");
  let guarded = false;
  const refresh = () => {
    guarded ||= Boolean(key.get());
    $("key").textContent = key.get() ? "Forget key" : "Enter key";
    show($("key"), guarded);
    show($("reference"), !guarded); // it is behind the key, which a link cannot carry
  };
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = $("key-field").value.trim();
    if (!PRINTABLE.test(given)) {
      $("key-reason").textContent = "A key has neither spaces nor letters beyond ASCII.";
      return;
    }
    key.keep(given);
    $("key-field").value = "";
    dialog.close();
    refresh();
    renewed();
  });
  $("key-cancel").addEventListener("click", () => dialog.close());
  $("key").addEventListener("click", () => {
    key.forget();
    refresh();
    renewed();
  });
  refresh();
  return (reason) => {
    const first = "Whoever runs it has given you one, or can.";
    $("key-reason").textContent = key.get() ? reason : first;
    key.forget();
    guarded = true;
    refresh();
    if (!dialog.open) dialog.showModal();
  };
}
