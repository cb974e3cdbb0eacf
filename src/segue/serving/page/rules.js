// Panel of rules: model, number of items, filters, boosts, quotas, diversity and excluded items.

import { ApiError } from "./api.js";
import { combobox } from "./combobox.js";
import { announce, h, titleElement, titleText } from "./dom.js";
import { formatNumber, formatValue } from "./format.js";
import { cachedItem, loadFeatures, loadItems, searchItems } from "./items.js";
import { errorMessage } from "./message.js";
import { modelLabel, modelList, onModelsChange } from "./models.js";
import { change, onStateChange, state } from "./state.js";

const KINDS = {
  any: "Include only", none: "Exclude", min: "Minimum", max: "Maximum", boost: "Boost", max_per_value: "Maximum items per value",
};
const NUMERIC_KINDS = ["min", "max"];
const MAX_SUGGESTIONS = 300;
const DEFAULT_K = 10, MAX_K = 100;

let features = new Map();

const model = h("select", { id: "rule-model", on: { change: () => change({ model: model.value || null }) } });
const k = h("input", { id: "rule-k", type: "number", min: 1, max: MAX_K, inputmode: "numeric", on: { change: applyK } });
const includeSeen = h("input", { id: "rule-include-seen", type: "checkbox", on: { change: () => change({ include_seen: includeSeen.checked }) } });
const diversify = h("input", { id: "rule-diversify", type: "range", min: 0, max: 1, step: 0.05, on: { input: () => change({ diversify: diversify.valueAsNumber }) } });
const diversityText = h("output", { for: "rule-diversify" });
const activeRules = h("ul", { class: "active-rules", "aria-label": "Active rules" });
const deniedItems = h("ul", { class: "active-rules", "aria-label": "Excluded items" });
const denyBox = combobox({
  label: "Exclude items", placeholder: "Search by title", search: searchItems, emptyText: () => "No matching title.",
  onSelect: ({ id }) => denyItem(id), onBackspace: () => state.deny.length && change({ deny: state.deny.slice(0, -1) }),
});

const kind = h("select", { id: "rule-kind", on: { change: updateForm } }, Object.entries(KINDS).map(([value, text]) => h("option", { value }, text)));
const feature = h("select", { id: "rule-feature", on: { change: updateForm } });
const suggestions = h("datalist", { id: "rule-values" });
const valueInput = h("input", { id: "rule-value", autocomplete: "off", maxlength: 256 });
const amount = h("input", { id: "rule-amount", type: "number", step: "any" });
const valueField = field("Value", valueInput);
const amountField = field("", amount);
const notice = h("div", {});
const form = h(
  "form", { class: "new-rule", "aria-label": "New rule", on: { submit: addRule } },
  field("Rule", kind), field("Feature", feature), valueField, amountField, suggestions,
  h("button", { class: "button" }, "Add rule"),
);

export function start() {
  const panel = document.getElementById("rules");
  panel.append(h(
    "div", { class: "rules" },
    field("Model", model),
    h("div", { class: "pair" }, field("Items", k), h("label", { class: "check" }, includeSeen, " Include seen items")),
    h("div", { class: "field" }, h("div", { class: "spread" }, h("label", { for: "rule-diversify" }, "Diversity"), diversityText), diversify),
    activeRules, notice, form, denyBox.element, deniedItems,
  ));
  panel.open = matchMedia("(min-width: 60rem)").matches;
  panel.addEventListener("toggle", initForm);
  onStateChange(render);
  onModelsChange(render);
  render();
  if (panel.open) initForm();
}

/** Exclude an item from all lists. */
export function denyItem(id) {
  change({ deny: [...new Set([...state.deny, id])] });
  announce(`${titleText(cachedItem(id))} is excluded.`);
}

/** Filter as text: `genres: Comedy or Drama`, `year: at least 1990`. */
export function describeFilter(filter) {
  return Object.entries(filter).map(([name, condition]) => {
    const parts = [];
    if (condition.any) parts.push(condition.any.map(formatValue).join(" or "));
    if (condition.none) parts.push(`not ${condition.none.map(formatValue).join(" or ")}`);
    if (condition.min !== undefined) parts.push(`at least ${condition.min}`);
    if (condition.max !== undefined) parts.push(`at most ${condition.max}`);
    return `${name}: ${parts.join(", ")}`;
  }).join("; ");
}

function field(text, control) {
  return h("div", { class: "field" }, h("label", { for: control.id }, text), control);
}

async function initForm() {
  if (!document.getElementById("rules").open || features.size) return;
  try {
    features = await loadFeatures();
    const names = [...features.keys()];
    feature.replaceChildren(...names.map((name) => h("option", {}, name)));
    if (names.includes("genres")) feature.value = "genres";
    form.hidden = names.length === 0;
    notice.replaceChildren(names.length ? "" : h("p", { class: "hint" }, "The catalog has no features, so only items can be excluded."));
    updateForm();
  } catch (error) {
    form.hidden = true;
    notice.replaceChildren(errorMessage(error, () => { form.hidden = false; initForm(); }));
  }
}

function updateForm() {
  const selected = features.get(feature.value);
  for (const option of kind.options) option.disabled = NUMERIC_KINDS.includes(option.value) && selected?.kind !== "number";
  if (kind.selectedOptions[0]?.disabled) kind.value = "any";
  const rule = kind.value;
  valueField.hidden = NUMERIC_KINDS.includes(rule) || rule === "max_per_value";
  amountField.hidden = rule === "any" || rule === "none";
  amountField.querySelector("label").textContent = { boost: "Factor", max_per_value: "Items" }[rule] ?? "Value";
  Object.assign(amount, rule === "boost" ? { min: "0.001", max: "1000" } : rule === "max_per_value" ? { min: "1", max: "1000" } : { min: "", max: "" });
  amount.step = rule === "max_per_value" ? "1" : "any";
  form.classList.toggle("three-fields", rule === "boost");
  amount.required = !amountField.hidden;
  valueInput.required = !valueField.hidden;
  if (selected) {
    suggestions.replaceChildren(...selected.values.slice(0, MAX_SUGGESTIONS).map((value) => h("option", { value: formatValue(value) })));
    valueInput.setAttribute("list", "rule-values");
    valueInput.placeholder = selected.values.slice(0, 2).map(formatValue).join(", ").slice(0, 40);
  }
}

/** Convert typed text to the type of the selected feature's values. */
function parseValue(text) {
  const selected = features.get(feature.value);
  const same = selected?.values.find((value) => formatValue(value).toLowerCase() === text.toLowerCase());
  if (same !== undefined) return same;
  return selected?.kind === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
}

function addRule(event) {
  event.preventDefault();
  const name = feature.value, rule = kind.value;
  const value = valueField.hidden ? null : parseValue(valueInput.value.trim());
  const condition = state.filter[name] ?? {};
  if (rule === "boost") change({ boosts: [...state.boosts, { filter: { [name]: { any: [value] } }, factor: amount.valueAsNumber }] });
  else if (rule === "max_per_value") change({ max_per_value: { ...state.max_per_value, [name]: amount.valueAsNumber } });
  else if (NUMERIC_KINDS.includes(rule)) change({ filter: { ...state.filter, [name]: { ...condition, [rule]: amount.valueAsNumber } } });
  else change({ filter: { ...state.filter, [name]: { ...condition, [rule]: [...new Set([...(condition[rule] ?? []), value])] } } });
  valueInput.value = amount.value = "";
  (valueField.hidden ? amount : valueInput).focus();
  announce("Rule added.");
}

function applyK() {
  const number = Math.round(k.valueAsNumber);
  if (number >= 1 && number <= MAX_K) change({ k: number });
  else k.value = state.k;
}

function render() {
  const { models, error } = modelList();
  const active = models.find((one) => one.active);
  const names = models.map((one) => one.name);
  if (state.model && !names.includes(state.model)) names.push(state.model);
  model.replaceChildren(h("option", { value: "" }, active ? `Active model (${active.name})` : "Active model"),
    ...names.map((name) => h("option", { value: name }, modelLabel(name))));
  model.value = state.model ?? "";
  model.title = error ? `The models could not be loaded: ${error.message}` : "";
  k.value = state.k;
  includeSeen.checked = state.include_seen;
  diversify.value = state.diversify;
  diversityText.textContent = state.diversify === 0 ? "score only" : formatNumber(state.diversify);
  diversify.setAttribute("aria-valuetext", diversityText.textContent);
  const lines = [
    ...Object.keys(state.filter).map((name) => [describeFilter({ [name]: state.filter[name] }), { filter: omit(state.filter, name) }]),
    ...state.boosts.map((boost, index) => [`boost × ${formatNumber(boost.factor)}: ${describeFilter(boost.filter)}`, { boosts: state.boosts.filter((_, other) => other !== index) }]),
    ...Object.entries(state.max_per_value).map(([name, limit]) => [`at most ${limit} per value of ${name}`, { max_per_value: omit(state.max_per_value, name) }]),
  ];
  activeRules.replaceChildren(...lines.map(([text, patch]) => chip(h("bdi", {}, text), text, patch, form)));
  activeRules.hidden = lines.length === 0;
  deniedItems.replaceChildren(...state.deny.map((id) => chip(titleElement(cachedItem(id)), titleText(cachedItem(id)), { deny: state.deny.filter((other) => other !== id) }, denyBox.element)));
  deniedItems.hidden = state.deny.length === 0;
  const n = lines.length + state.deny.length + (state.model !== null) + state.include_seen + (state.diversify > 0) + (state.k !== DEFAULT_K);
  document.getElementById("rules-count").textContent = n ? `${n} active` : "none active";
  loadDeniedTitles();
}

const requestedTitles = new Set();

/** Load the titles of excluded items restored from the URL. */
async function loadDeniedTitles() {
  const untitled = state.deny.filter((id) => cachedItem(id).title === null);
  if (!untitled.length || untitled.every((id) => requestedTitles.has(id))) return;
  untitled.forEach((id) => requestedTitles.add(id));
  try {
    await loadItems(untitled);
    render();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // show ids instead of titles
  }
}

function chip(content, text, patch, next) {
  const click = () => {
    change(patch);
    next.querySelector("input:enabled, select")?.focus();
    announce(`Rule removed: ${text}`);
  };
  return h("li", {}, content, h("button", { type: "button", class: "quiet icon", "aria-label": `Remove: ${text}`, on: { click } }, "×"));
}

function omit(object, name) {
  const { [name]: _, ...rest } = object;
  return rest;
}
