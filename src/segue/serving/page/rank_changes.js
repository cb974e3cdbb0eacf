// Differences between two ranked lists.

import { h, screenReaderText } from "./dom.js";
import { formatList, formatQuantity } from "./format.js";

/** `changes`: by id, positions gained (negative: lost; null: new item); `removed`: items that are gone. */
export function compareLists(before, after) {
  const ranks = new Map(before.map((item, rank) => [item.id, rank]));
  const ids = new Set(after.map((item) => item.id));
  const changes = new Map(after.map((item, rank) => [item.id, ranks.has(item.id) ? ranks.get(item.id) - rank : null]));
  return { changes, removed: before.filter((item) => !ids.has(item.id)) };
}

export const NO_CHANGES = "no changes";

/** Summary of the differences. */
export function summarize({ changes, removed }) {
  const gains = [...changes.values()];
  const added = gains.filter((gain) => gain === null).length, moved = gains.filter((gain) => gain).length;
  if (!added && !moved && !removed.length) return NO_CHANGES;
  const parts = [];
  if (added) parts.push(`${added} new`);
  if (moved) parts.push(`${moved} moved`);
  if (removed.length) parts.push(`${removed.length} removed`);
  return formatList(parts);
}

/** Vertical positions of rows on the screen, by item id. */
export const rowPositions = (list) => new Map([...list.querySelectorAll("li[data-id]")].map((row) => [row.dataset.id, row.getBoundingClientRect().top]));

/** Animate moved rows from their previous positions, unless reduced motion is preferred. */
export function animateRows(list, previous) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const current = rowPositions(list);
  for (const row of list.querySelectorAll("li[data-id]")) {
    const offset = previous.get(row.dataset.id) - current.get(row.dataset.id);
    if (offset) row.animate([{ transform: `translateY(${offset}px)` }, { transform: "none" }], { duration: 240, easing: "ease-out" });
  }
}

/** Tag after a title: new, up or down; none for unchanged items. */
export function rankChangeTag(gain) {
  if (gain === null) return h("span", { class: "rank-change new" }, "new");
  if (!gain) return null;
  const [sign, word] = gain > 0 ? ["▲", "up"] : ["▼", "down"];
  return h("span", { class: `rank-change ${word}` }, h("span", { "aria-hidden": "true" }, `${sign} ${Math.abs(gain)}`), screenReaderText(`${word} ${formatQuantity(Math.abs(gain), "rank")}`));
}
