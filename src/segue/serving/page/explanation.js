// Explains why an item is recommended, or why it is not; loaded on demand.

import { call } from "./api.js";
import { bar, h, sanitize, screenReaderText, titleElement } from "./dom.js";
import { formatPercent, formatSigned, toSentence } from "./format.js";
import { errorMessage, loadingMessage } from "./message.js";

const MAX_ROWS = 6;

/** Box that loads and shows the explanation of item `id` for `request`. */
export function explanation(request, id) {
  const box = h("div", { class: "explanation" });
  const load = async () => {
    box.replaceChildren(loadingMessage("Loading explanation…"));
    try {
      box.replaceChildren(...render(await call("POST", "explain", { body: { ...request, item: id } })));
    } catch (error) {
      box.replaceChildren(errorMessage(error, load));
    }
  };
  load();
  return box;
}

function render({ item, recommended, position, attributions, shared_features: shared, neighbors, rules, reasons }) {
  const has = (kind) => reasons.some((reason) => reason.kind === kind);
  const texts = reasons.map(({ text }) => toSentence(text));
  if (!has("rule")) texts.unshift(...Object.entries(rules).map(([name, effect]) => `${name}: ${effect}`));
  if (!has("rank")) texts.unshift(position === null ? "Excluded by a rule." : `Rank ${position}${recommended ? "" : ", not in the list"}.`);
  if (Number.isFinite(item.probability)) texts.splice(1, 0, `Probability ${formatPercent(item.probability)}.`);
  const details = renderDetails(attributions.filter(({ contribution }) => contribution !== 0), Object.entries(shared), neighbors);
  return [
    h("ul", { class: "reasons" }, texts.map((text) => h("li", {}, h("bdi", {}, sanitize(text))))),
    details.length ? h("details", {}, h("summary", {}, "Details"), details) : h("p", { class: "muted" }, "The history has no effect on this item."),
  ];
}

function renderDetails(attributions, shared, neighbors) {
  const largest = Math.max(...attributions.map(({ contribution }) => Math.abs(contribution)), Number.MIN_VALUE);
  const parts = [];
  if (attributions.length) {
    parts.push(h("h4", {}, "Contribution of past events to the score"), h("ul", { class: "attributions" }, attributions.slice(0, MAX_ROWS).map((one) => h(
      "li", { class: one.contribution < 0 ? "negative" : null }, titleElement(one), bar(Math.abs(one.contribution) / largest), h("span", { class: "n" }, formatSigned(one.contribution, largest))))));
  }
  if (shared.length) parts.push(h("h4", {}, "Features shared with the history"), h("dl", {}, shared.map(([name, values]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, values.join(", ")))])));
  if (neighbors.length) {
    parts.push(h("h4", {}, "History items that often co-occur with it"), h("ul", { class: "neighbors" }, neighbors.slice(0, MAX_ROWS).map((one) => h(
      "li", {}, titleElement(one), Number.isFinite(one.similarity) ? h("span", { class: "note" }, screenReaderText("similarity "), one.similarity.toFixed(2)) : null))));
  }
  return parts;
}
