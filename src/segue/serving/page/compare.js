// View "Compare": recommendations of two models for the same query, side by side.

import { call } from "./api.js";
import { announce, h } from "./dom.js";
import { formatQuantity } from "./format.js";
import { cacheTitles } from "./items.js";
import { emptyMessage, errorMessage, loadingMessage } from "./message.js";
import { modelLabel, modelList, onModelsChange } from "./models.js";
import { modelLine, ranking } from "./ranking.js";
import { buildRequest, change, hasQuery, onStateChange, state } from "./state.js";
import { selectRandomUser } from "./user_panel.js";

const DEBOUNCE_MS = 150;

const panel = document.getElementById("compare");
let pending = null, timer;

export function start() {
  onStateChange((changed) => {
    if (state.view !== "compare" || (changed.size === 1 && changed.has("at"))) return;
    clearTimeout(timer);
    timer = setTimeout(render, changed.has("view") ? 0 : DEBOUNCE_MS);
  });
  onModelsChange(() => state.view === "compare" && render());
  if (state.view === "compare") render();
}

/** Names of the two models: those selected, otherwise the active one and another. */
function selectedModels() {
  const { models } = modelList();
  const a = state.a ?? (models.find((model) => model.active) ?? models[0])?.name;
  const b = state.b ?? models.find((model) => model.name !== a)?.name ?? a;
  return [a, b];
}

async function render() {
  pending?.abort();
  const { signal } = (pending = new AbortController());
  const { models, error } = modelList();
  if (error) return panel.replaceChildren(errorMessage(error));
  if (!models.length) return panel.replaceChildren(loadingMessage("Loading models…"));
  if (!hasQuery()) {
    return panel.replaceChildren(emptyMessage("Choose a user or build a history to compare two models.",
      h("button", { type: "button", class: "button primary", on: { click: selectRandomUser } }, "Random user")));
  }
  const names = selectedModels();
  const head = h("div", { class: "pair model-choice" }, modelSelect("a", "First model", names[0]), modelSelect("b", "Second model", names[1]));
  const lists = h("div", { class: "comparison" });
  const focus = document.activeElement?.id;
  if (!panel.querySelector(".comparison")) lists.append(loadingMessage());
  else lists.replaceChildren(...panel.querySelector(".comparison").childNodes);
  panel.replaceChildren(h("div", { class: "spread head" }, h("h2", {}, "Compare two models")), head, lists);
  document.getElementById(focus)?.focus();
  lists.setAttribute("aria-busy", "true");
  const results = await Promise.allSettled(names.map((model) => call("POST", "recommend", { body: buildRequest({ model }), signal })));
  if (signal.aborted) return;
  lists.removeAttribute("aria-busy");
  const succeeded = results.every((result) => result.status === "fulfilled");
  lists.replaceChildren(...(succeeded ? renderComparison(results.map((result) => result.value)) : [
    h("div", { class: "columns" }, results.map((result, side) => h("section", { "aria-label": names[side] },
      result.status === "fulfilled" ? renderColumn(result.value) : errorMessage(result.reason, render))))]));
}

function modelSelect(name, text, selected) {
  const options = [...new Set([...modelList().models.map((model) => model.name), selected])];
  const select = h("select", { id: `compare-${name}`, on: { change: () => change({ [name]: select.value }) } }, options.map((option) => h("option", { value: option, selected: option === selected }, modelLabel(option))));
  return h("div", { class: "field" }, h("label", { for: select.id }, text), select);
}

function renderComparison(responses) {
  const ranks = responses.map(({ items }) => new Map(items.map((item, index) => [item.id, index + 1])));
  const common = responses[0].items.filter((item) => ranks[1].has(item.id));
  const firstDifference = responses[0].items.findIndex((item, index) => item.id !== responses[1].items[index]?.id);
  const areEqual = responses[0].items.length === responses[1].items.length && firstDifference === -1;
  const longest = Math.max(...ranks.map((own) => own.size));
  const prefix = firstDifference > 0 ? `; the first ${firstDifference} are identical` : "";
  const text = areEqual ? "Both lists are identical." : `${common.length} of ${formatQuantity(longest, "item")} are in both lists${prefix}.`;
  responses.forEach(({ items }) => cacheTitles(items));
  announce(text);
  return [
    h("p", { class: "overlap" }, h("strong", {}, text), common.length && !areEqual ? h("span", { class: "muted" }, " They are highlighted, with their rank in the other list.") : null),
    h("div", { class: "columns" }, responses.map((response, side) => h("section", { "aria-label": response.model.name }, renderColumn(response, ranks[1 - side])))),
  ];
}

function renderColumn(response, otherRanks = null) {
  const list = ranking(response.items, {
    label: `Recommendations of ${response.model.name}`, highlighted: new Set(otherRanks?.keys()), otherRank: otherRanks && ((item) => otherRanks.get(item.id)),
  });
  return [modelLine(response), response.items.length ? list : emptyMessage("The rules leave no items to recommend.")];
}
