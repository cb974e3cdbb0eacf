// An item and those like it, in a dialog from which one can go on to the next.

import { call, path } from "./api.js";
import { noted } from "./catalogue.js";
import { bar, button, called, h, unseen } from "./element.js";
import { faulty, loading } from "./message.js";
import { value } from "./number.js";

const K = 10;

const dialog = document.getElementById("item");
let trail = [], asked = null, close;

/** Show an item by its id; `closed()` is called afterwards. */
export function about(id, closed = () => {}) {
  trail = [id];
  close = closed;
  show(id);
  dialog.showModal();
}

dialog.addEventListener("close", () => {
  asked?.abort();
  close?.();
});

async function show(id) {
  asked?.abort();
  const { signal } = (asked = new AbortController());
  dialog.replaceChildren(top(), h("h2", { id: "item-title" }, h("bdi", {}, id)), loading("Looking for what is like it…"));
  try {
    const [item, { items }] = await Promise.all([
      call("GET", path("items", id), { signal }),
      call("GET", path("items", id, "similar"), { query: { k: K }, signal }),
    ]);
    dialog.replaceChildren(top(), ...drawn(item, items));
    dialog.querySelector("h2").focus();
  } catch (error) {
    if (!signal.aborted) dialog.replaceChildren(top(), h("h2", { id: "item-title" }, h("bdi", {}, id)), faulty(error, () => show(id)));
  }
}

function top() {
  const back = button("Back", null, () => {
    trail.pop();
    show(trail.pop());
  });
  return h("div", { class: "spread" }, trail.length > 1 ? back : h("span", { class: "soft" }, "Similar items"), button("Close", null, () => dialog.close()));
}

function drawn(item, items) {
  const features = Object.entries(item.features).filter(([, held]) => held !== null);
  return [
    h("h2", { id: "item-title", tabindex: -1 }, called(item)),
    h("dl", { class: "features" }, h("dt", {}, "id"), h("dd", {}, h("code", { dir: "auto" }, item.id)),
      features.map(([name, held]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, value(held)))])),
    h("h3", {}, "Most like it"),
    items.length ? h("ol", { class: "alike", "aria-label": "Similar items" }, items.map((other) => h(
      "li", {}, h("button", { type: "button", class: "quiet", on: { click: () => go(other.id) } }, called(other)),
      h("span", { class: "note" }, noted(other)),
      Number.isFinite(other.likeness) ? h("span", { class: "probability" }, bar(other.likeness), unseen("likeness "), other.likeness.toFixed(2)) : null,
    ))) : h("p", { class: "soft" }, "Nothing is like it."),
  ];
}

function go(id) {
  trail.push(id);
  show(id);
}
