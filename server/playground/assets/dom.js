// Elements without markup: text is only ever a text node, so that nothing a user or a model says
// can become part of the page.

export const $ = (id) => document.getElementById(id);

/** `make("p.note", { title: "…" }, "text", child)`: attributes by name, handlers as `onclick`. */
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(name, value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Show or hide. */
export function show(element, yes) {
  element.hidden = !yes;
}
