// What an answer may hold: the panel of rules.

import { Fault } from "./api.js";
import { features, fetched, item, search } from "./catalogue.js";
import { combobox } from "./combobox.js";
import { called, fresh, h, name, tell } from "./element.js";
import { faulty } from "./message.js";
import { labelled, models, published } from "./models.js";
import { about, value } from "./number.js";
import { change, state, watch } from "./state.js";

const KINDS = {
  any: "Only with", none: "Never with", min: "Only from", max: "Only up to", boost: "More or less of", most: "At most so many of each",
};
const NUMERIC = ["min", "max"];
const VALUES = 300;

let offered = new Map();

const model = h("select", { id: "rule-model", on: { change: () => change({ model: model.value || null }) } });
const k = h("input", { id: "rule-k", type: "number", min: 1, max: 100, inputmode: "numeric", on: { change: setK } });
const repeats = h("input", { id: "rule-repeats", type: "checkbox", on: { change: () => change({ repeats: repeats.checked }) } });
const diversify = h("input", { id: "rule-diversify", type: "range", min: 0, max: 1, step: 0.05, on: { input: setDiversify } });
const diverse = h("output", { for: "rule-diversify" });
const set = h("ul", { class: "set", "aria-label": "Rules that are set" });
const denied = h("ul", { class: "set", "aria-label": "Items that are never shown" });
const deny = combobox({
  label: "Never these", placeholder: "Search by title", search, none: () => "No title holds this.",
  choose: ({ id }) => never(id), back: () => state.deny.length && change({ deny: state.deny.slice(0, -1) }),
});

const kind = h("select", { id: "rule-kind", on: { change: fit } }, Object.entries(KINDS).map(([own, text]) => h("option", { value: own }, text)));
const feature = h("select", { id: "rule-feature", on: { change: fit } });
const values = h("datalist", { id: "rule-values" });
const held = h("input", { id: "rule-value", autocomplete: "off", maxlength: 256 });
const amount = h("input", { id: "rule-amount", type: "number", step: "any" });
const heldField = field("Value", held);
const amountField = field("", amount);
const trouble = h("div", {});
const form = h(
  "form", { class: "new-rule", "aria-label": "A new rule", on: { submit: add } },
  field("Rule", kind), field("Feature", feature), heldField, amountField, values,
  h("button", { class: "button" }, "Add the rule"),
);

export function begin() {
  const panel = document.getElementById("rules");
  panel.append(h(
    "div", { class: "rules" },
    field("Model", model),
    h("div", { class: "pair" }, field("How many", k), h("label", { class: "check" }, repeats, " Repeats allowed")),
    h("div", { class: "field" }, h("div", { class: "spread" }, h("label", { for: "rule-diversify" }, "Diversity"), diverse), diversify),
    set, trouble, form, deny.element, denied,
  ));
  panel.open = matchMedia("(min-width: 60rem)").matches;
  panel.addEventListener("toggle", offer);
  watch(show);
  published(show);
  show();
  if (panel.open) offer();
}

/** Never show this item. */
export function never(id) {
  change({ deny: [...new Set([...state.deny, id])] });
  tell(`${name(item(id))} is not shown from now on.`);
}

/** Conditions in words: `genres: Comedy or Drama`, `year: 1990 to 1999`. */
export function worded(where) {
  return Object.entries(where).map(([own, condition]) => {
    const parts = [];
    if (condition.any) parts.push(condition.any.map(value).join(" or "));
    if (condition.none) parts.push(`not ${condition.none.map(value).join(" or ")}`);
    if (condition.min !== undefined) parts.push(`from ${condition.min}`);
    if (condition.max !== undefined) parts.push(`up to ${condition.max}`);
    return `${own}: ${parts.join(", ")}`;
  }).join("; ");
}

function field(text, control) {
  return h("div", { class: "field" }, h("label", { for: control.id }, text), control);
}

async function offer() {
  if (!document.getElementById("rules").open || offered.size) return;
  try {
    offered = await features();
    const names = [...offered.keys()];
    feature.replaceChildren(...names.map((own) => h("option", {}, own)));
    if (names.includes("genres")) feature.value = "genres";
    form.hidden = names.length === 0;
    trouble.replaceChildren(names.length ? "" : h("p", { class: "hint" }, "The catalogue tells no features: items can only be named."));
    fit();
  } catch (error) {
    form.hidden = true;
    trouble.replaceChildren(faulty(error, () => { form.hidden = false; offer(); }));
  }
}

function fit() {
  const own = offered.get(feature.value);
  for (const option of kind.options) option.disabled = NUMERIC.includes(option.value) && own?.kind !== "number";
  if (kind.selectedOptions[0]?.disabled) kind.value = "any";
  const which = kind.value;
  heldField.hidden = NUMERIC.includes(which) || which === "most";
  amountField.hidden = which === "any" || which === "none";
  amountField.querySelector("label").textContent = { boost: "Odds times", most: "Items" }[which] ?? "Value";
  Object.assign(amount, which === "boost" ? { min: "0.001", max: "1000" } : which === "most" ? { min: "1", max: "1000" } : { min: "", max: "" });
  amount.step = which === "most" ? "1" : "any";
  form.classList.toggle("three", which === "boost");
  amount.required = !amountField.hidden;
  held.required = !heldField.hidden;
  if (own) {
    values.replaceChildren(...own.values.slice(0, VALUES).map((one) => h("option", { value: value(one) })));
    held.setAttribute("list", "rule-values");
    held.placeholder = own.values.slice(0, 2).map(value).join(", ").slice(0, 40);
  }
}

/** What was typed, as the feature has it: a number stays a number. */
function typed(text) {
  const own = offered.get(feature.value);
  const same = own?.values.find((one) => value(one).toLowerCase() === text.toLowerCase());
  if (same !== undefined) return same;
  return own?.kind === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
}

function add(event) {
  event.preventDefault();
  const own = feature.value, which = kind.value;
  const one = heldField.hidden ? null : typed(held.value.trim());
  const condition = state.where[own] ?? {};
  if (which === "boost") change({ boosts: [...state.boosts, { where: { [own]: { any: [one] } }, factor: amount.valueAsNumber }] });
  else if (which === "most") change({ most: { ...state.most, [own]: amount.valueAsNumber } });
  else if (NUMERIC.includes(which)) change({ where: { ...state.where, [own]: { ...condition, [which]: amount.valueAsNumber } } });
  else change({ where: { ...state.where, [own]: { ...condition, [which]: [...new Set([...(condition[which] ?? []), one])] } } });
  held.value = amount.value = "";
  (heldField.hidden ? amount : held).focus();
  tell("The rule is set.");
}

function setK() {
  const number = Math.round(k.valueAsNumber);
  if (number >= 1 && number <= 100) change({ k: number });
  else k.value = state.k;
}

function setDiversify() {
  change({ diversify: diversify.valueAsNumber });
}

function show() {
  const { models: all, fault } = models();
  const active = all.find((one) => one.active);
  const names = all.map((one) => one.name);
  if (state.model && !names.includes(state.model)) names.push(state.model);
  model.replaceChildren(h("option", { value: "" }, active ? `The active one (${active.name})` : "The active one"),
    ...names.map((own) => h("option", { value: own }, labelled(own))));
  model.value = state.model ?? "";
  model.title = fault ? `The models could not be listed: ${fault.message}` : "";
  k.value = state.k;
  repeats.checked = state.repeats;
  diversify.value = state.diversify;
  diverse.textContent = state.diversify === 0 ? "by score alone" : about(state.diversify);
  diversify.setAttribute("aria-valuetext", diverse.textContent);
  const lines = [
    ...Object.keys(state.where).map((own) => [worded({ [own]: state.where[own] }), { where: without(state.where, own) }]),
    ...state.boosts.map((boost, place) => [`odds × ${about(boost.factor)} where ${worded(boost.where)}`, { boosts: state.boosts.filter((_, other) => other !== place) }]),
    ...Object.entries(state.most).map(([own, most]) => [`at most ${most} of each of ${own}`, { most: without(state.most, own) }]),
  ];
  set.replaceChildren(...lines.map(([text, patch]) => chip(h("bdi", {}, text), text, patch, form)));
  set.hidden = lines.length === 0;
  denied.replaceChildren(...state.deny.map((id) => chip(called(item(id)), name(item(id)), { deny: state.deny.filter((other) => other !== id) }, deny.element)));
  denied.hidden = state.deny.length === 0;
  const many = lines.length + state.deny.length + (state.model !== null) + state.repeats + (state.diversify > 0) + (state.k !== 10);
  document.getElementById("rules-sum").textContent = many ? `${many} set` : "none set";
  titles();
}

/** Titles of denied items that came with the address. */
async function titles() {
  const bare = state.deny.filter((id) => item(id).title === null);
  if (!bare.length || bare.every((id) => asked.has(id))) return;
  bare.forEach((id) => asked.add(id));
  try {
    await fetched(bare);
    show();
  } catch (error) {
    if (!(error instanceof Fault)) throw error; // ids stand for the titles
  }
}

const asked = new Set();

function chip(content, text, patch, next) {
  const click = () => {
    change(patch);
    next.querySelector("input:enabled, select")?.focus();
    tell(`Rule taken away: ${text}`);
  };
  return h("li", {}, content, h("button", { type: "button", class: "quiet icon", "aria-label": `Take away: ${text}`, on: { click } }, "×"));
}

function without(record, name) {
  const { [name]: _, ...rest } = record;
  return rest;
}
