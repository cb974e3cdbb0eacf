// Creates DOM elements from text; external data is never parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** Create an HTML element. `on` maps events to listeners; null and false omit an attribute; strings become text nodes. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** Create an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let lastId = 0;

/** Create a unique element id. */
export const uniqueId = (name) => `${name}-${++lastId}`;

/** Text for screen readers only. */
export const screenReaderText = (text) => h("span", { class: "visually-hidden" }, text);

/** Remove bidirectional control characters, and replace other control characters by spaces. */
export const sanitize = (text) => text.replace(/[\u202a-\u202e\u2066-\u2069]/g, "").replace(/[\u0000-\u001f\u007f-\u009f]+/g, " ");

/** Title of an item with its own text direction, or its id. */
export const titleElement = (item) => h("bdi", { class: item.title ? "title" : "title id", dir: "auto" }, sanitize(item.title || item.id));

/** Title of an item within a sentence or label: truncated and isolated from the surrounding text direction. */
export function titleText(item) {
  const text = sanitize(item.title || item.id);
  return `\u2068${text.length > 80 ? `${text.slice(0, 79)}…` : text}\u2069`;
}

/** Text button whose label includes, for screen readers, the item it refers to. */
export function button(text, item, click, attributes = {}) {
  return h("button", { type: "button", class: "quiet", on: { click }, ...attributes }, text, item ? screenReaderText(` ${titleText(item)}`) : null);
}

/** Bar whose length is `share` of the available width, from 0 to 1. */
export function bar(share) {
  const inner = h("span", {});
  inner.style.setProperty("--share", Math.max(0, Math.min(1, share)));
  return h("span", { class: "bar", "aria-hidden": "true" }, inner);
}

/** Announce a text to screen readers. */
export function announce(text) {
  document.getElementById("announcement").textContent = text;
}
