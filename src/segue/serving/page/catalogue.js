// Items as far as this page has met them: their titles, and which features there are to filter by.

import { Fault, call, path } from "./api.js";
import { value } from "./number.js";

const AT_ONCE = 6;
const SAMPLE = 100;
const NOTED = 3;

const items = new Map();
let sampled = null;

/** Remember items that came with their features. */
function keep(list) {
  for (const one of list) items.set(one.id, one);
  return list;
}

/** Remember the titles of items, `{id, title}`, that came without features. */
export function heard(list) {
  for (const { id, title } of list) if (title && !items.has(id)) items.set(id, { id, title, features: {} });
}

/** What is known of an item; at least its id. */
export const item = (id) => items.get(id) ?? { id, title: null, features: {} };

/** Items whose title holds `query`, as options of a combobox. */
export async function search(query, signal) {
  const { items: found } = await call("GET", "items", { query: { query, limit: 12 }, signal });
  return keep(found).map((one) => ({ id: one.id, label: one.title || one.id, note: noted(one) }));
}

/** Items by their ids; one that is not there stands for itself, without a title. */
export async function fetched(ids, signal) {
  const missing = [...new Set(ids)].filter((id) => !items.has(id));
  for (let start = 0; start < missing.length; start += AT_ONCE) {
    const asked = missing.slice(start, start + AT_ONCE).map(async (id) => {
      try {
        keep([await call("GET", path("items", id), { signal })]);
      } catch (error) {
        if (!(error instanceof Fault) || error.status !== 404) throw error;
        items.set(id, { id, title: null, features: {} });
      }
    });
    await Promise.all(asked);
  }
  return ids.map(item);
}

/** Features by name: `kind` (number, tags, text, truth), and `values` that were met, the most frequent first. */
export async function features() {
  sampled ??= call("GET", "items", { query: { query: "", limit: SAMPLE } }).then(({ items: found }) => keep(found));
  try {
    await sampled;
  } catch (error) {
    sampled = null;
    throw error;
  }
  const counts = new Map(), kinds = new Map();
  for (const { features: own } of items.values()) {
    for (const [name, held] of Object.entries(own)) {
      const values = Array.isArray(held) ? held : [held];
      if (Array.isArray(held)) kinds.set(name, "tags");
      for (const one of values) {
        if (one === null) continue;
        if (kinds.get(name) !== "tags") kinds.set(name, { number: "number", boolean: "truth" }[typeof one] ?? "text");
        if (!counts.has(name)) counts.set(name, new Map());
        counts.get(name).set(one, (counts.get(name).get(one) ?? 0) + 1);
      }
    }
  }
  const sorted = (found) => [...found].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).map(([one]) => one);
  return new Map([...counts].map(([name, found]) => [name, { kind: kinds.get(name), values: sorted(found) }]));
}

/** A few features in a line, short ones alone. */
export function noted(one) {
  const short = Object.values(one.features ?? {}).filter((held) => held !== null && typeof held !== "boolean").map(value);
  return short.filter((text) => text.length <= 40 && !text.includes("://")).slice(0, NOTED).join(" · ");
}
