// The tray: pictures that were chosen, dropped or pasted, as the data URLs that a request carries.

import { $, make, show } from "./dom.js";

const TAKEN = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** What the browser can draw but the server does not take goes as PNG. */
async function redrawn(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.toDataURL("image/png");
}

async function read(file) {
  const url = TAKEN.has(file.type) ? await asDataUrl(file) : await redrawn(file);
  const image = new Image();
  image.src = url;
  await image.decode();
  return { url, name: file.name || "pasted picture" };
}

export class Tray {
  #pictures = [];
  #changed;

  /** `changed(trouble)` is called after every change, with what could not be read. */
  constructor(changed) {
    this.#changed = changed;
    $("files").addEventListener("change", () => {
      this.add($("files").files);
      $("files").value = "";
    });
    document.addEventListener("paste", (event) => this.#pasted(event));
    for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
      window.addEventListener(name, (event) => this.#dragged(event));
    }
  }

  get urls() {
    return this.#pictures.map((picture) => picture.url);
  }

  async add(files) {
    const lost = [];
    for (const file of [...files]) {
      try {
        this.#pictures.push(await read(file));
      } catch {
        lost.push(file.name || "what was pasted");
      }
    }
    this.#draw();
    this.#changed(lost.length ? `Not a picture that this browser can read: ${lost.join(", ")}.` : "");
  }

  /** Put one picture in the place of all others. */
  async replace(url, name) {
    const blob = await (await fetch(url)).blob();
    this.#pictures = [{ url: await asDataUrl(blob), name }];
    this.#draw();
    this.#changed("");
  }

  #remove(picture) {
    this.#pictures = this.#pictures.filter((other) => other !== picture);
    this.#draw();
    this.#changed("");
    ($("tray").querySelector("button") ?? $("files")).focus();
  }

  #pasted(event) {
    const files = event.clipboardData?.files ?? [];
    if (!files.length) return;
    event.preventDefault();
    this.add(files);
  }

  #dragged(event) {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    const inside = event.type === "dragover" || event.type === "dragenter";
    const left = event.type === "dragleave" && event.relatedTarget === null;
    if (inside || left || event.type === "drop") document.body.classList.toggle("over", inside);
    if (event.type === "drop") this.add(event.dataTransfer.files);
  }

  #draw() {
    const items = this.#pictures.map((picture) => make("li", {},
      make("img", { src: picture.url, alt: picture.name }),
      make("button", {
        type: "button",
        "aria-label": `Remove ${picture.name}`,
        title: "Remove",
        onclick: () => this.#remove(picture),
      }, "×")));
    $("tray").replaceChildren(...items);
    $("tray").classList.toggle("several", items.length > 1);
    show($("tray"), items.length > 0);
    $("pictures").classList.toggle("filled", items.length > 0);
    $("drop").querySelector("b").textContent = items.length ? "Add another" : "Choose a picture";
  }
}
