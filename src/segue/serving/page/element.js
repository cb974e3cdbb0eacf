// Elements made of text alone: nothing that comes from outside is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `on` holds listeners by event; null and false leave an attribute out; strings become text. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same of SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let ids = 0;

/** An id that no other element has. */
export const fresh = (name) => `${name}-${++ids}`;

/** Text for screen readers alone. */
export const unseen = (text) => h("span", { class: "unseen" }, text);

/** Text without the marks that turn round what stands beside them, and without control characters. */
export const clean = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "").replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");

/** What an item is called, in its own writing direction; without a title, its id. */
export const called = (item) => h("bdi", { class: item.title ? "title" : "title id", dir: "auto" }, clean(item.title || item.id));

/** The same within a sentence or a label, cut where it is long and shut off from the direction of what surrounds it. */
export function name(item) {
  const text = clean(item.title || item.id);
  return `\u2068${text.length > 80 ? `${text.slice(0, 79)}…` : text}\u2069`;
}

/** A quiet button that says, for screen readers, which item it is about. */
export function button(text, about, click, attributes = {}) {
  return h("button", { type: "button", class: "quiet", on: { click }, ...attributes }, text, about ? unseen(` ${name(about)}`) : null);
}

/** A bar whose length is `share` of what there is room for, from 0 to 1. */
export function bar(share) {
  const inner = h("span", {});
  inner.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return h("span", { class: "bar", "aria-hidden": "true" }, inner);
}

/** Told to screen readers, politely. */
export function tell(text) {
  document.getElementById("told").textContent = text;
}
