// The view "Two models": one question, two answers, side by side.

import { call } from "./api.js";
import { answered, ranking } from "./answer.js";
import { heard } from "./catalogue.js";
import { h, tell } from "./element.js";
import { empty, faulty, loading } from "./message.js";
import { labelled, models, published } from "./models.js";
import { counted } from "./number.js";
import { change, question, somebody, state, watch } from "./state.js";
import { anybody } from "./who.js";

const PAUSE_MS = 150;

const panel = document.getElementById("compare");
let asked = null, timer;

export function begin() {
  watch((changed) => {
    if (state.view !== "compare" || (changed.size === 1 && changed.has("at"))) return;
    clearTimeout(timer);
    timer = setTimeout(draw, changed.has("view") ? 0 : PAUSE_MS);
  });
  published(() => state.view === "compare" && draw());
  if (state.view === "compare") draw();
}

/** The two that are compared: those chosen, else the active one and the next. */
function pair() {
  const { models: all } = models();
  const a = state.a ?? (all.find((one) => one.active) ?? all[0])?.name;
  const b = state.b ?? all.find((one) => one.name !== a)?.name ?? a;
  return [a, b];
}

async function draw() {
  asked?.abort();
  const { signal } = (asked = new AbortController());
  const { models: all, fault } = models();
  if (fault) return panel.replaceChildren(faulty(fault));
  if (!all.length) return panel.replaceChildren(loading("Listing the models…"));
  if (!somebody()) {
    return panel.replaceChildren(empty("Choose a user, or put a history together, and see what two models make of it.",
      h("button", { type: "button", class: "button strong", on: { click: anybody } }, "Someone at random")));
  }
  const names = pair();
  const head = h("div", { class: "pair chosen-models" }, chooser("a", "One model", names[0]), chooser("b", "The other", names[1]));
  const answer = h("div", { class: "both" });
  const focus = document.activeElement?.id;
  if (!panel.querySelector(".both")) answer.append(loading());
  else answer.replaceChildren(...panel.querySelector(".both").childNodes);
  panel.replaceChildren(h("div", { class: "spread head" }, h("h2", {}, "Two models, one question")), head, answer);
  document.getElementById(focus)?.focus();
  answer.setAttribute("aria-busy", "true");
  const answers = await Promise.allSettled(names.map((model) => call("POST", "recommend", { body: question({ model }), signal })));
  if (signal.aborted) return;
  answer.removeAttribute("aria-busy");
  answer.replaceChildren(...(answers.every((one) => one.status === "fulfilled") ? beside(answers.map((one) => one.value)) : [
    h("div", { class: "columns" }, answers.map((one, side) => h("section", { "aria-label": names[side] },
      one.status === "fulfilled" ? column(one.value) : faulty(one.reason, draw))))]));
}

function chooser(part, text, chosen) {
  const names = [...new Set([...models().models.map((one) => one.name), chosen])];
  const select = h("select", { id: `compare-${part}`, on: { change: () => change({ [part]: select.value }) } }, names.map((name) => h("option", { value: name, selected: name === chosen }, labelled(name))));
  return h("div", { class: "field" }, h("label", { for: select.id }, text), select);
}

function beside(answers) {
  const places = answers.map(({ items }) => new Map(items.map((one, place) => [one.id, place + 1])));
  const common = answers[0].items.filter((one) => places[1].has(one.id));
  const alike = answers[0].items.findIndex((one, place) => one.id !== answers[1].items[place]?.id);
  const same = answers[0].items.length === answers[1].items.length && alike === -1;
  const longest = Math.max(...places.map((own) => own.size));
  const text = same ? "Both lists are the same." : `${common.length} of ${counted(longest, "item")} in both lists${alike > 0 ? `; the first ${alike} alike` : ""}.`;
  answers.forEach(({ items }) => heard(items));
  tell(text);
  return [
    h("p", { class: "overlap" }, h("strong", {}, text), common.length && !same ? h("span", { class: "soft" }, " They are marked, with their place there.") : null),
    h("div", { class: "columns" }, answers.map((answer, side) => h("section", { "aria-label": `By ${answer.model.name}` }, column(answer, places[1 - side])))),
  ];
}

function column(answer, others = null) {
  const list = ranking(answer.items, {
    label: `Recommended by ${answer.model.name}`, marks: new Set(others?.keys()), there: others && ((one) => others.get(one.id)),
  });
  return [answered(answer), answer.items.length ? list : empty("The rules leave nothing to recommend.")];
}
