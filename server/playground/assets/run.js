// One answer on the page: it streams in, then its account is drawn beside it.

import { Refusal } from "./api.js";
import { accountOf, headline } from "./account.js";
import { make, show } from "./dom.js";
import { count } from "./format.js";
import { rowsOf, sentence, stack } from "./stack.js";

export class Run {
  text = "";
  account = null;
  #usage = null;
  #reason = null;

  constructor(title, layers) {
    this.layers = layers;
    this.state = make("span.state", {}, "waiting");
    this.answer = make("p.answer", { "aria-live": "polite", "aria-busy": "true" });
    this.error = make("div.error", { role: "alert", hidden: true });
    this.figure = make("figure", {}, stack(layers, null));
    this.facts = make("div.facts");
    this.element = make("article.run.working", {},
      make("h3", {}, make("span", {}, title), this.state),
      this.answer, this.error, make("div.depth", {}, this.figure, this.facts));
  }

  /** Take the chunks as they come. Throws what ended them early. */
  async take(chunks) {
    for await (const chunk of chunks) {
      for (const choice of chunk.choices) {
        this.#write(choice.delta.content ?? "");
        this.#reason = choice.finish_reason ?? this.#reason;
      }
      if (chunk.usage) this.#usage = chunk.usage;
      if (chunk.dyvte) this.account = chunk.dyvte;
    }
    this.#end();
    this.draw();
  }

  #write(text) {
    if (!text) return;
    this.text += this.text ? text : text.trimStart();
    this.answer.textContent = this.text;
    this.state.textContent = "streaming";
  }

  #end() {
    const tokens = count(this.#usage?.completion_tokens ?? 0, "token");
    const cut = this.#reason === "length" ? ", cut at the limit" : "";
    this.state.textContent = tokens + cut;
    if (!this.text) this.answer.textContent = "(an empty answer)";
    this.#settle();
  }

  #settle() {
    this.element.classList.remove("working");
    this.answer.setAttribute("aria-busy", "false");
  }

  /** The user's doing, or an error with the server's own message. */
  fail(error) {
    this.#settle();
    if (error.name === "AbortError") {
      this.state.textContent = "stopped";
      this.facts.replaceChildren(make("p.note", {}, "Only an answer that ends has an account."));
      return;
    }
    this.state.textContent = "failed";
    const facts = error instanceof Refusal ? error.facts : [];
    this.error.replaceChildren(make("p", {}, error.message));
    if (facts.length) this.error.append(make("small", {}, facts.join(" · ")));
    show(this.error, true);
    this.element.classList.add("failed");
    show(this.answer, this.text !== "");
  }

  /** Draw the account; `scale` as in `accountOf`. */
  draw(scale = undefined) {
    if (!this.account || !this.#usage) return;
    const rows = rowsOf(this.account, this.#usage);
    const told = make("figcaption", {}, sentence(this.account, rows));
    this.figure.replaceChildren(stack(this.layers, rows, this.account.exit_layer), told);
    this.facts.replaceChildren(headline(this.account), accountOf(this.account, scale));
  }

  /** Write the answer again with the words marked that another one lacks. */
  mark(words) {
    const parts = words.flatMap(({ word, differs }, at) => [
      at ? " " : "", differs ? make("mark", {}, word) : word,
    ]);
    this.answer.replaceChildren(...parts);
  }
}
