// Why an item is recommended, or why not: asked for when somebody wants to know.

import { call } from "./api.js";
import { bar, called, clean, h, unseen } from "./element.js";
import { faulty, loading } from "./message.js";
import { percent, sentence, signed } from "./number.js";

const MOST = 6;

/** A box that fills itself with the explanation of `id` under `question`. */
export function why(question, id) {
  const box = h("div", { class: "why" });
  const ask = async () => {
    box.replaceChildren(loading("Looking for reasons…"));
    try {
      box.replaceChildren(...explained(await call("POST", "explain", { body: { ...question, item: id } })));
    } catch (error) {
      box.replaceChildren(faulty(error, ask));
    }
  };
  ask();
  return box;
}

function explained({ item, recommended, place, influences, shared, neighbours, rules, reasons }) {
  const has = (kind) => reasons.some((reason) => reason.kind === kind);
  const words = reasons.map(({ text }) => sentence(text));
  if (!has("rule")) words.unshift(...Object.entries(rules).map(([name, did]) => `${name}: ${did}`));
  if (!has("rank")) words.unshift(place === null ? "A rule keeps it out." : `Place ${place}${recommended ? "" : ", below the list"}.`);
  if (Number.isFinite(item.probability)) words.splice(1, 0, `A probability of ${percent(item.probability)}.`);
  const shown = figures(influences.filter(({ change }) => change !== 0), Object.entries(shared), neighbours);
  return [
    h("ul", { class: "reasons" }, words.map((text) => h("li", {}, h("bdi", {}, clean(text))))),
    shown.length ? h("details", {}, h("summary", {}, "In figures"), shown) : h("p", { class: "soft" }, "Nothing of the history speaks for or against it."),
  ];
}

function figures(influences, shared, neighbours) {
  const most = Math.max(...influences.map(({ change }) => Math.abs(change)), Number.MIN_VALUE);
  const parts = [];
  if (influences.length) {
    parts.push(h("h4", {}, "What past events do to its score"), h("ul", { class: "influences" }, influences.slice(0, MOST).map((one) => h(
      "li", { class: one.change < 0 ? "against" : null }, called(one), bar(Math.abs(one.change) / most), h("span", { class: "n" }, signed(one.change, most))))));
  }
  if (shared.length) parts.push(h("h4", {}, "In common with the history"), h("dl", {}, shared.map(([name, values]) => [h("dt", {}, name), h("dd", {}, h("bdi", {}, values.join(", ")))])));
  if (neighbours.length) {
    parts.push(h("h4", {}, "Of the history, often had together with it"), h("ul", { class: "neighbours" }, neighbours.slice(0, MOST).map((one) => h(
      "li", {}, called(one), Number.isFinite(one.likeness) ? h("span", { class: "note" }, unseen("likeness "), one.likeness.toFixed(2)) : null))));
  }
  return parts;
}
