// What changed between two lists.

import { h, unseen } from "./element.js";
import { and, counted } from "./number.js";

/** By id, how many places an item rose (negative: fell; null: it is new); and those that `left`. */
export function moves(before, after) {
  const places = new Map(before.map((item, place) => [item.id, place]));
  const now = new Set(after.map((item) => item.id));
  const moved = new Map(after.map((item, place) => [item.id, places.has(item.id) ? places.get(item.id) - place : null]));
  return { moved, left: before.filter((item) => !now.has(item.id)) };
}

/** The changes in a sentence. */
export function summed({ moved, left }) {
  const by = [...moved.values()];
  const fresh = by.filter((one) => one === null).length, changed = by.filter((one) => one).length;
  if (!fresh && !changed && !left.length) return "nothing changed place";
  const parts = [];
  if (fresh) parts.push(`${fresh} new`);
  if (changed) parts.push(`${counted(changed, "changed place", "changed place")}`);
  if (left.length) parts.push(`${left.length} left the list`);
  return and(parts);
}

/** Places of rows on the screen, by the id of their items. */
export const tops = (list) => new Map([...list.querySelectorAll("li[data-id]")].map((row) => [row.dataset.id, row.getBoundingClientRect().top]));

/** Rows that changed place come from where they were, unless somebody asked for less motion. */
export function glide(list, before) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const now = tops(list);
  for (const row of list.querySelectorAll("li[data-id]")) {
    const by = before.get(row.dataset.id) - now.get(row.dataset.id);
    if (by) row.animate([{ transform: `translateY(${by}px)` }, { transform: "none" }], { duration: 240, easing: "ease-out" });
  }
}

/** A mark beside a title: new, up, down; nothing for what stayed. */
export function marked(by) {
  if (by === null) return h("span", { class: "moved new" }, "new");
  if (!by) return null;
  const [sign, word] = by > 0 ? ["▲", "up"] : ["▼", "down"];
  return h("span", { class: `moved ${word}` }, h("span", { "aria-hidden": "true" }, `${sign} ${Math.abs(by)}`), unseen(`${word} ${counted(Math.abs(by), "place")}`));
}
