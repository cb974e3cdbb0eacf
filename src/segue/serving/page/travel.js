// The view "Through time": what would have been recommended before each event, and whether the event was among it.

import { Fault, call } from "./api.js";
import { answered, ranking } from "./answer.js";
import { fetched, item } from "./catalogue.js";
import { called, h, name, svg, tell } from "./element.js";
import { empty, faulty, loading } from "./message.js";
import { count, counted, date } from "./number.js";
import { meet, person } from "./person.js";
import { change, question, somebody, state, watch } from "./state.js";
import { anybody } from "./who.js";

const PAUSE_MS = 120;
const MANY = 30;
const AT_ONCE = 10;
const SHOWN = 6;

const panel = document.getElementById("travel");
let events = [], total = 0, owner = null; // what is travelled through, oldest first
let answers = new Map(); // by question, so that going back costs nothing
let asked = null, timer, parts = null, turns = 0;

export function begin() {
  watch((changed) => {
    if (state.view !== "travel") return;
    if (changed.size === 1 && changed.has("at")) return place();
    draw();
  });
  meet(() => state.view === "travel" && state.who === "user" && draw());
  if (state.view === "travel") draw();
}

/** The events to go through, from the user or from the history. */
async function gather() {
  const mine = state.who === "user" ? state.user : JSON.stringify(state.history);
  if (mine !== owner) answers = new Map();
  owner = mine;
  if (state.who === "user") {
    events = person().person?.events ?? [];
    total = person().person?.total ?? 0;
    return;
  }
  events = state.history.map((id) => ({ ...item(id), item: id }));
  total = events.length;
  try {
    await fetched(state.history);
  } catch (error) {
    if (!(error instanceof Fault)) throw error; // ids stand for the titles
  }
  events = state.history.map((id) => ({ ...item(id), item: id }));
}

async function draw() {
  const turn = ++turns;
  parts = null;
  if (!somebody()) {
    return panel.replaceChildren(empty("Choose a user to go through what happened, event by event.",
      h("button", { type: "button", class: "button strong", on: { click: anybody } }, "Someone at random")));
  }
  const { person: known, fault } = person();
  if (state.who === "user" && fault) return panel.replaceChildren(faulty(fault));
  if (state.who === "user" && !known) return panel.replaceChildren(loading("Looking up the events…"));
  await gather();
  if (turn !== turns) return;
  if (!events.length) return panel.replaceChildren(empty("Nothing has happened yet: there is nothing to go through."));
  const slider = h("input", { id: "moment", type: "range", min: 1, max: events.length, step: 1, on: { input: () => change({ at: slider.valueAsNumber }) } });
  parts = {
    slider, strip: h("div", { class: "strip" }), tally: h("p", { class: "soft" }), moment: h("p", { class: "moment" }),
    past: h("ol", { class: "lately" }), answer: h("div", { class: "then" }),
    earlier: h("button", { type: "button", class: "button", on: { click: () => step(-1) } }, "← Earlier"),
    later: h("button", { type: "button", class: "button", on: { click: () => step(1) } }, "Later →"),
    all: h("button", { type: "button", class: "button", on: { click: askMany } }, `Ask before each of the last ${Math.min(MANY, events.length)}`),
  };
  const trained = events.some((event) => event.source === "training");
  panel.replaceChildren(
    h("div", { class: "spread head" }, h("h2", {}, "What would have come next")),
    h("div", { class: "travel" }, h("label", { for: "moment" }, "Moment"), parts.strip, slider, parts.moment,
      h("div", { class: "row" }, parts.earlier, parts.later, parts.all), parts.tally),
    h("div", { class: "before" }, h("section", { "aria-label": "What had happened" }, h("h3", {}, "What had happened"), parts.past), parts.answer),
    h("p", { class: "note" }, [
      "Asked by the history before the event alone.",
      trained ? "The model may have learned from these very events: this is to look at, not to measure by." : "",
      total > events.length ? `The newest ${count(events.length)} of ${count(total)} events; histories begin with the oldest of them.` : "",
    ].filter(Boolean).join(" ")),
  );
  place();
}

const moment = () => Math.min(state.at ?? events.length, events.length);

function step(by) {
  change({ at: Math.max(1, Math.min(events.length, moment() + by)) });
}

/** The question as it would have been asked before event number `at`, from 1. */
function then(at) {
  const history = events.slice(0, at - 1).map((event) => {
    const given = { item: event.item };
    for (const part of ["action", "value", "time"]) if (event[part] !== null && event[part] !== undefined) given[part] = event[part];
    return given;
  });
  return question({ user: undefined, history, time: events[at - 1].time ?? undefined });
}

const found = (at) => answers.get(JSON.stringify(then(at)));
const placed = (at) => found(at).items.findIndex((one) => one.id === events[at - 1].item) + 1;

function place() {
  if (!parts) return;
  const at = moment(), event = events[at - 1];
  parts.slider.value = at;
  parts.slider.setAttribute("aria-valuetext", `before event ${at} of ${events.length}, ${name({ id: event.item, title: event.title })}`);
  parts.earlier.disabled = at === 1;
  parts.later.disabled = at === events.length;
  parts.moment.replaceChildren(`Before event ${count(at)} of ${count(events.length)}${date(event.time) ? `, ${date(event.time)}` : ""}. Next came `, called({ id: event.item, title: event.title }), ".");
  const past = events.slice(Math.max(0, at - 1 - SHOWN), at - 1).reverse();
  parts.past.setAttribute("aria-label", "Before the moment, newest first");
  parts.past.replaceChildren(...past.map((one) => h("li", {}, called({ id: one.item, title: one.title }), h("span", { class: "note" }, date(one.time)))));
  if (!past.length) parts.past.replaceChildren(h("li", { class: "soft" }, "Nothing yet."));
  clearTimeout(timer);
  if (found(at)) show(at);
  else timer = setTimeout(ask, PAUSE_MS);
  strip();
}

async function ask() {
  asked?.abort();
  const { signal } = (asked = new AbortController());
  const at = moment(), body = then(at);
  parts.answer.setAttribute("aria-busy", "true");
  if (!parts.answer.hasChildNodes()) parts.answer.append(loading());
  try {
    const answer = await call("POST", "recommend", { body, signal });
    if (signal.aborted) return;
    answers.set(JSON.stringify(body), answer);
    show(at);
    strip();
  } catch (error) {
    if (!signal.aborted) parts?.answer.replaceChildren(faulty(error, ask));
  }
}

function show(at) {
  const answer = found(at), next = events[at - 1], hit = placed(at);
  const had = events.slice(0, at - 1).some((event) => event.item === next.item);
  const verdict = hit ? `It was there, at place ${hit}.`
    : had && !state.repeats ? "It had been had before, and what was had is not recommended again." : `It was not among the ${answer.items.length}.`;
  parts.answer.removeAttribute("aria-busy");
  parts.answer.replaceChildren(
    h("p", { class: hit ? "verdict hit" : "verdict" }, h("span", { class: "sign", "aria-hidden": "true" }, hit ? "✓" : "–"), verdict), answered(answer),
    ranking(answer.items, { label: "What would have been recommended", marks: new Set([next.item]), tagged: (one) => (one.id === next.item ? h("span", { class: "tag hit" }, "came next") : null) }));
  tell(`Before event ${at}: ${verdict}`);
}

/** A mark for each event: the next one was in the list, was not, or was not asked for. */
function strip() {
  const n = events.length, hits = [], misses = [];
  for (let at = 1; at <= n; at++) if (found(at)) (placed(at) ? hits : misses).push(at);
  const rest = Array.from({ length: n }, (_, index) => index + 1).filter((at) => !found(at));
  const marks = (list, mark, height) => svg("path", { class: mark, d: list.map((at) => `M${at} 10V${10 - height}`).join("") });
  parts.strip.classList.toggle("dense", n > 60);
  parts.strip.replaceChildren(svg("svg", { viewBox: `1 0 ${Math.max(1, n - 1)} 10`, preserveAspectRatio: "none", "aria-hidden": "true" },
    marks(rest, "rest", 1.5), marks(misses, "miss", 4), marks(hits, "hit", 10)));
  const asked = hits.length + misses.length;
  parts.tally.textContent = asked ? `Asked before ${counted(asked, "event")}: the next one was among the ${state.k} before ${counted(hits.length, "of them", "of them")}.` : "";
}

async function askMany() {
  const moments = Array.from({ length: Math.min(MANY, events.length) }, (_, index) => events.length - index).filter((at) => !found(at));
  const mine = parts;
  mine.all.disabled = true;
  try {
    for (let start = 0; start < moments.length; start += AT_ONCE) {
      const bodies = moments.slice(start, start + AT_ONCE).map(then);
      const told = await call("POST", "recommend/batch", { body: { questions: bodies } });
      bodies.forEach((body, index) => answers.set(JSON.stringify(body), told.answers[index]));
      if (parts !== mine) return;
      strip();
    }
    if (found(moment())) show(moment());
    tell(mine.tally.textContent);
  } catch (error) {
    if (parts === mine) mine.answer.replaceChildren(faulty(error, askMany));
  }
  mine.all.disabled = false;
}
