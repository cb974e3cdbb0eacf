// Cache of items seen by this page: titles, and features available for filters.

import { ApiError, call, path } from "./api.js";
import { formatValue } from "./format.js";

const MAX_CONCURRENT = 6;
const SAMPLE_SIZE = 100;
const MAX_FEATURES = 3;

const items = new Map();
let sample = null;

/** Cache items with their features. */
function cacheItems(list) {
  for (const item of list) items.set(item.id, item);
  return list;
}

/** Cache the titles of items `{id, title}` received without features. An item that was replaced has a new title. */
export function cacheTitles(list) {
  for (const { id, title } of list) if (title && items.get(id)?.title !== title) items.set(id, { id, title, features: {} });
}

/** Cached item, or one that has only its id. */
export const cachedItem = (id) => items.get(id) ?? { id, title: null, features: {} };

/** Search items by title and return options for a combobox. */
export async function searchItems(query, signal) {
  const { items: results } = await call("GET", "items", { query: { query, limit: 12 }, signal });
  return cacheItems(results).map((item) => ({ id: item.id, label: item.title || item.id, note: featureSummary(item) }));
}

/** Load items by id; an item that does not exist has no title, and is requested again later: it may be added. */
export async function loadItems(ids, signal) {
  const missing = [...new Set(ids)].filter((id) => !items.has(id));
  for (let start = 0; start < missing.length; start += MAX_CONCURRENT) {
    const requests = missing.slice(start, start + MAX_CONCURRENT).map(async (id) => {
      try {
        cacheItems([await call("GET", path("items", id), { signal })]);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 404) throw error;
      }
    });
    await Promise.all(requests);
  }
  return ids.map(cachedItem);
}

/** Features by name: `kind` (number, tags, text, boolean) and observed `values`, most frequent first. */
export async function loadFeatures() {
  sample ??= call("GET", "items", { query: { query: "", limit: SAMPLE_SIZE } }).then(({ items: results }) => cacheItems(results));
  try {
    await sample;
  } catch (error) {
    sample = null;
    throw error;
  }
  const counts = new Map(), kinds = new Map();
  for (const { features } of items.values()) {
    for (const [name, content] of Object.entries(features)) {
      const values = Array.isArray(content) ? content : [content];
      if (Array.isArray(content)) kinds.set(name, "tags");
      for (const value of values) {
        if (value === null) continue;
        if (kinds.get(name) !== "tags") kinds.set(name, { number: "number", boolean: "boolean" }[typeof value] ?? "text");
        if (!counts.has(name)) counts.set(name, new Map());
        counts.get(name).set(value, (counts.get(name).get(value) ?? 0) + 1);
      }
    }
  }
  const byFrequency = (values) => [...values].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)).map(([value]) => value);
  return new Map([...counts].map(([name, values]) => [name, { kind: kinds.get(name), values: byFrequency(values) }]));
}

/** A few short features of an item in one line. */
export function featureSummary(item) {
  const texts = Object.values(item.features ?? {}).filter((value) => value !== null && typeof value !== "boolean").map(formatValue);
  return texts.filter((text) => text.length <= 40 && !text.includes("://")).slice(0, MAX_FEATURES).join(" · ");
}
