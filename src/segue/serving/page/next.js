// The view "Next": what is recommended, why, and how it changes as things happen.

import { call, token } from "./api.js";
import { answered, ranking, told } from "./answer.js";
import { heard, item, search } from "./catalogue.js";
import { combobox } from "./combobox.js";
import { button, called, fresh, h, name, tell, unseen } from "./element.js";
import { empty, faulty, loading } from "./message.js";
import { glide, marked, moves, summed, tops } from "./moves.js";
import { about } from "./similar.js";
import { reload } from "./person.js";
import { asRequest } from "./request.js";
import { never } from "./rules.js";
import { change, person, question, somebody, state, watch } from "./state.js";
import { anybody } from "./who.js";
import { why } from "./why.js";

const PAUSE_MS = 150;

const panel = document.getElementById("next");
let before = null; // {person, items} of the answer that is shown
let since = null; // {id, text}: what happened since that answer
let asked = null, timer;

export function begin() {
  watch((changed) => {
    if (state.view !== "next" || ["at", "a", "b"].some((part) => changed.has(part) && changed.size === 1)) return;
    clearTimeout(timer);
    timer = setTimeout(ask, changed.has("view") || changed.has("user") || changed.has("who") ? 0 : PAUSE_MS);
  });
  if (state.view === "next") ask();
}

/** Ask, and show the answer with what changed since the last one. */
export async function ask() {
  asked?.abort();
  const { signal } = (asked = new AbortController());
  if (!somebody()) {
    before = null;
    panel.replaceChildren(empty("Choose a user, or put a history together, and see what comes next.",
      h("button", { type: "button", class: "button strong", on: { click: anybody } }, "Someone at random"),
      h("button", { type: "button", class: "button", on: { click: () => change({ who: "history" }) } }, "An empty history")));
    return;
  }
  const body = question(), who = person();
  panel.setAttribute("aria-busy", "true");
  if (before?.person !== who) panel.replaceChildren(loading());
  const start = performance.now();
  try {
    const answer = await call("POST", "recommend", { body, signal });
    if (signal.aborted) return;
    heard(answer.items);
    show(answer, body, who, Math.round(performance.now() - start));
  } catch (error) {
    if (signal.aborted) return;
    before = null;
    panel.replaceChildren(faulty(error, ask));
  }
  panel.removeAttribute("aria-busy");
}

function show(answer, body, who, took) {
  const change = before?.person === who ? moves(before.items, answer.items) : null;
  if (change) change.left = change.left.filter(({ id }) => id !== since?.id);
  const focus = focused(), stood = tops(panel);
  const list = ranking(answer.items, {
    label: "Recommended items, best first",
    tagged: (one) => (change ? marked(change.moved.get(one.id)) : null),
    beside: (one) => beside(one, body),
    end: (one) => h("button", { type: "button", class: "button happen", on: { click: (event) => happen(one, event.currentTarget) } },
      state.who === "user" ? "It happened" : "Add it", unseen(` ${name(one)}`)),
  });
  panel.replaceChildren(
    h("div", { class: "spread head" }, h("h2", {}, "What comes next"), answered(answer, took)),
    h("div", { class: "failed" }),
    change && (since || summed(change) !== "nothing changed place") ? changed(change) : "",
    answer.items.length ? list : empty("The rules leave nothing to recommend."),
    told(answer), whyNot(body), asRequest("recommend", body, answer),
  );
  tell(`${since ? `${since.text} ` : ""}${answer.items.length} items${change ? `: ${summed(change)}` : ""}. First: ${answer.items.length ? name(answer.items[0]) : "none"}.`);
  before = { person: who, items: answer.items };
  since = null;
  if (change) glide(list, stood);
  if (focus) refocus(focus);
}

function changed(change) {
  const left = change.left.slice(0, 10).map((one, place) => [place ? ", " : null, called(one)]).flat();
  return h("p", { class: "changed" }, `${since?.text ?? "Since the last answer:"} ${summed(change)}.`, left.length ? [" Gone: ", ...left, "."] : null);
}

function beside(one, body) {
  const id = fresh("why");
  const box = h("div", { id, hidden: true });
  const opener = button("Why", one, () => {
    box.hidden = !box.hidden;
    opener.setAttribute("aria-expanded", String(!box.hidden));
    if (!box.hidden && !box.hasChildNodes()) box.append(why(body, one.id));
  }, { "aria-expanded": "false", "aria-controls": id });
  return h("div", { class: "beside" }, h("div", { class: "acts" }, opener, button("Similar", one, () => about(one.id)), button("Never", one, () => never(one.id))), box);
}

/** Which button of which row has the focus: it stays there while the list changes. */
function focused() {
  const rows = [...panel.querySelectorAll(".ranking > li")];
  const place = rows.findIndex((row) => row.contains(document.activeElement));
  return place < 0 ? null : { place, button: [...rows[place].querySelectorAll("button")].indexOf(document.activeElement) };
}

function refocus({ place, button: which }) {
  const rows = panel.querySelectorAll(".ranking > li");
  const row = rows[Math.min(place, rows.length - 1)];
  (row?.querySelectorAll("button")[which] ?? panel).focus();
}

/** Post that it happened and ask again. A second try carries the same key: it counts once. */
async function happen(one, pressed, key = token()) {
  since = { id: one.id, text: `After ${name(one)}:` };
  if (state.who === "history") return change({ history: [...state.history, one.id] });
  pressed.setAttribute("aria-disabled", "true");
  try {
    const taken = await call("POST", "events", { body: { user: state.user, item: one.id, key } });
    if (taken.duplicates) since.text = `${name(one)} was there already:`;
    await Promise.all([ask(), reload()]);
  } catch (error) {
    since = null;
    pressed.removeAttribute("aria-disabled");
    panel.querySelector(".failed").replaceChildren(faulty(error, () => happen(one, pressed, key)));
  }
}

/** An explanation for an item of one's own choice. */
function whyNot(body) {
  const box = h("div", {});
  const chooser = combobox({
    label: "Why not…", placeholder: "Search by title", search, keep: true, none: () => "No title holds this.",
    choose: ({ id }) => box.replaceChildren(h("p", { class: "name" }, called(item(id))), why(body, id)),
  });
  return h("section", { class: "why-not", "aria-label": "Why another item is not there" }, chooser.element, box);
}
