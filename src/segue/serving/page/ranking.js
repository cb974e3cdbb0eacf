// Renders a response: ranked items, the model that answered, and the effects of the rules.

import { bar, h, screenReaderText, titleElement } from "./dom.js";
import { formatCount, formatList, formatPercent, formatScore, toSentence } from "./format.js";

const SOURCES = { model: "model", fallback: "fallback model", neighbors: "neighbors of history items", popular: "popular items" };
const EXCLUSIONS = {
  seen: "already seen", allow: "not in the allow list", deny: "in the deny list", filter: "not matching the filter", max_per_value: "over a quota",
};

/**
 * Ordered list of items. `tag(item)` returns an element after the title, `details(item)` one below it, `action(item)` one at
 * the end, `otherRank(item)` the rank in another list; items whose ids are in `highlighted` are set off.
 */
export function ranking(items, { label, tag = () => null, details = () => null, action = null, otherRank = null, highlighted = new Set() }) {
  const hasProbability = items.some((item) => Number.isFinite(item.probability));
  const maxProbability = Math.max(...items.map((item) => item.probability ?? 0), Number.MIN_VALUE);
  const classes = ["ranked", hasProbability && "has-probability", otherRank && "has-comparison", action && "has-action"].filter(Boolean).join(" ");
  const row = (item, index) => h(
    "li", { "data-id": item.id, class: highlighted.has(item.id) ? "highlighted" : null },
    h("span", { class: "rank", "aria-hidden": "true" }, formatCount(index + 1)),
    h("div", { class: "content" }, h("span", { class: "name" }, titleElement(item), item.pinned ? h("span", { class: "tag" }, "pinned") : null, tag(item)), details(item)),
    otherRank ? h("span", { class: "other-rank" }, otherRank(item) ? [screenReaderText("rank in the other list: "), formatCount(otherRank(item))] : screenReaderText("not in the other list")) : null,
    hasProbability ? h("span", { class: "probability" }, bar((item.probability ?? 0) / maxProbability), screenReaderText("probability "), formatPercent(item.probability ?? 0)) : null,
    h("span", { class: "score" }, h("span", { class: "label" }, "score "), formatScore(item.score)),
    action ? h("div", { class: "end" }, action(item)) : null,
  );
  return h("div", { class: classes },
    h("div", { class: "legend", "aria-hidden": "true" }, h("span", {}), h("span", {}),
      otherRank ? h("span", { class: "other-rank" }, "other") : null, hasProbability ? h("span", { class: "probability" }, "probability") : null, h("span", { class: "score" }, "score"), action ? h("span", {}) : null),
    h("ol", { class: "ranking", "aria-label": label }, items.map(row)));
}

/** Model, version, engine and latency of a response, and its source unless that is the model. */
export function modelLine({ model, source }, latency = null) {
  return h("p", { class: "model-line" }, "Model ", h("strong", {}, model.name),
    ` · ${[model.key === model.name ? null : model.key, `version ${model.version}`, model.engine, latency === null ? null : `${latency} ms`].filter(Boolean).join(" · ")}`,
    source === "model" ? null : h("span", { class: "tag warning" }, `source: ${SOURCES[source] ?? source}`));
}

/** Excluded items, unknown inputs, notes, and the source of the list. */
export function responseNotes(response) {
  const exclusions = Object.entries(response.filtered_counts).filter(([, n]) => n);
  const { user, items, features } = response.unknown;
  const lines = [
    exclusions.length ? h("p", {}, `Excluded items: ${formatList(exclusions.map(([rule, n]) => `${formatCount(n)} ${EXCLUSIONS[rule] ?? `by the rule “${rule}”`}`))}.`) : h("p", {}, "No items were excluded."),
    user ? h("p", {}, "The user is not in the training data.") : null,
    items.length ? h("p", {}, "Not in the catalog: ", codeList(items)) : null,
    features.length ? h("p", {}, "Unknown features: ", codeList(features)) : null,
    ...response.notes.map((note) => h("p", {}, h("bdi", {}, toSentence(note)))),
  ];
  const chain = h("p", {}, "Source: ", Object.entries(SOURCES).map(([source, text], index) => [
    index ? h("span", { "aria-hidden": "true" }, " › ") : null,
    source === response.source ? h("strong", { "aria-current": "step" }, text) : h("span", { class: "muted" }, text),
  ]).flat());
  return h("section", { class: "response-notes", "aria-label": "Rule effects" }, h("h3", {}, "Rule effects"), lines, chain);
}

const codeList = (ids) => ids.slice(0, 20).map((id, index) => [index ? ", " : null, h("code", { dir: "auto" }, id)]).flat().concat(ids.length > 20 ? [` and ${ids.length - 20} more`] : []);
