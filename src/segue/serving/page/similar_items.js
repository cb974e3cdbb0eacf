// Dialog with an item and similar items, from which one can navigate on.

import { call, path } from "./api.js";
import { bar, button, h, screenReaderText, titleElement } from "./dom.js";
import { formatValue } from "./format.js";
import { featureSummary } from "./items.js";
import { errorMessage, loadingMessage } from "./message.js";

const K = 10;

const dialog = document.getElementById("item");
let trail = [], pending = null, onClose;

/** Show an item; `closed()` is called when the dialog closes. */
export function showItem(id, closed = () => {}) {
  trail = [id];
  onClose = closed;
  load(id);
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  pending?.abort();
  onClose?.();
});

async function load(id) {
  pending?.abort();
  const { signal } = (pending = new AbortController());
  dialog.replaceChildren(toolbar(), h("h2", { id: "item-title" }, h("bdi", {}, id)), loadingMessage("Loading similar items…"));
  try {
    const [item, { items }] = await Promise.all([
      call("GET", path("items", id), { signal }),
      call("GET", path("items", id, "similar"), { query: { k: K }, signal }),
    ]);
    dialog.replaceChildren(toolbar(), ...render(item, items));
    dialog.querySelector("h2").focus();
  } catch (error) {
    if (!signal.aborted) dialog.replaceChildren(toolbar(), h("h2", { id: "item-title" }, h("bdi", {}, id)), errorMessage(error, () => load(id)));
  }
}

function toolbar() {
  const back = button("Back", null, () => {
    trail.pop();
    open(trail.pop());
  });
  return h("div", { class: "spread" }, trail.length > 1 ? back : h("span", { class: "muted" }, "Similar items"), button("Close", null, () => dialog.close()));
}

function render(item, similar) {
  const features = Object.entries(item.features).filter(([, value]) => value !== null);
  return [
    h("h2", { id: "item-title", tabindex: -1 }, titleElement(item)),
    h("dl", { class: "features" }, h("dt", {}, "id"), h("dd", {}, h("code", { dir: "auto" }, item.id)),
      features.map(([name, value]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, formatValue(value)))])),
    h("h3", {}, "Most similar"),
    similar.length ? h("ol", { class: "similar-items", "aria-label": "Similar items" }, similar.map((other) => h(
      "li", {}, h("button", { type: "button", class: "quiet", on: { click: () => open(other.id) } }, titleElement(other)),
      h("span", { class: "note" }, featureSummary(other)),
      Number.isFinite(other.similarity) ? h("span", { class: "probability" }, bar(other.similarity), screenReaderText("similarity "), other.similarity.toFixed(2)) : null,
    ))) : h("p", { class: "muted" }, "No similar items."),
  ];
}

function open(id) {
  trail.push(id);
  load(id);
}
