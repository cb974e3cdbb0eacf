// View "Replay": recommendations before each event of a history, and whether they contained the event's item.

import { ApiError, call } from "./api.js";
import { announce, h, svg, titleElement, titleText } from "./dom.js";
import { formatCount, formatDate, formatQuantity } from "./format.js";
import { cachedItem, loadItems } from "./items.js";
import { emptyMessage, errorMessage, loadingMessage } from "./message.js";
import { modelLine, ranking } from "./ranking.js";
import { buildRequest, change, hasQuery, onStateChange, state } from "./state.js";
import { currentUser, onUserChange } from "./user.js";
import { selectRandomUser } from "./user_panel.js";

const DEBOUNCE_MS = 120;
const MAX_REPLAYED = 30;
const BATCH_SIZE = 10;
const MAX_PAST = 6;

const panel = document.getElementById("replay");
let events = [], total = 0, owner = null; // events to replay, oldest first
let responses = new Map(); // by request, so that going back needs no request
let pending = null, timer, parts = null, renders = 0;

export function start() {
  onStateChange((changed) => {
    if (state.view !== "replay") return;
    if (changed.size === 1 && changed.has("at")) return showPosition();
    render();
  });
  onUserChange(() => state.view === "replay" && state.mode === "user" && render());
  if (state.view === "replay") render();
}

/** Collect the events of the user or of the history. */
async function collectEvents() {
  const id = state.mode === "user" ? state.user : JSON.stringify(state.history);
  if (id !== owner) responses = new Map();
  owner = id;
  if (state.mode === "user") {
    events = currentUser().user?.events ?? [];
    total = currentUser().user?.total ?? 0;
    return;
  }
  events = state.history.map((item) => ({ ...cachedItem(item), item }));
  total = events.length;
  try {
    await loadItems(state.history);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // show ids instead of titles
  }
  events = state.history.map((item) => ({ ...cachedItem(item), item }));
}

async function render() {
  const number = ++renders;
  parts = null;
  if (!hasQuery()) {
    return panel.replaceChildren(emptyMessage("Choose a user to replay their history event by event.",
      h("button", { type: "button", class: "button primary", on: { click: selectRandomUser } }, "Random user")));
  }
  const { user, error } = currentUser();
  if (state.mode === "user" && error) return panel.replaceChildren(errorMessage(error));
  if (state.mode === "user" && !user) return panel.replaceChildren(loadingMessage("Loading events…"));
  await collectEvents();
  if (number !== renders) return;
  if (!events.length) return panel.replaceChildren(emptyMessage("There are no events to replay."));
  const slider = h("input", { id: "replay-slider", type: "range", min: 1, max: events.length, step: 1, on: { input: () => change({ at: slider.valueAsNumber }) } });
  parts = {
    slider, timeline: h("div", { class: "timeline" }), summary: h("p", { class: "muted" }), position: h("p", { class: "replay-position" }),
    past: h("ol", { class: "recent-events" }), list: h("div", { class: "replay-list" }),
    earlier: h("button", { type: "button", class: "button", on: { click: () => step(-1) } }, "← Earlier"),
    later: h("button", { type: "button", class: "button", on: { click: () => step(1) } }, "Later →"),
    all: h("button", { type: "button", class: "button", on: { click: replayAll } }, `Replay the last ${Math.min(MAX_REPLAYED, events.length)} events`),
  };
  const hasTraining = events.some((event) => event.origin === "training");
  panel.replaceChildren(
    h("div", { class: "spread head" }, h("h2", {}, "Recommendations before an event")),
    h("div", { class: "replay-controls" }, h("label", { for: "replay-slider" }, "Event"), parts.timeline, slider, parts.position,
      h("div", { class: "row" }, parts.earlier, parts.later, parts.all), parts.summary),
    h("div", { class: "replay-columns" }, h("section", { "aria-label": "History" }, h("h3", {}, "History"), parts.past), parts.list),
    h("p", { class: "note" }, [
      "Only events before the selected one are used.",
      hasTraining ? "The model may have been trained on these events, so this is an illustration, not an evaluation." : "",
      total > events.length ? `The most recent ${formatCount(events.length)} of ${formatCount(total)} events are shown; histories start at the oldest of them.` : "",
    ].filter(Boolean).join(" ")),
  );
  showPosition();
}

const currentPosition = () => Math.min(state.at ?? events.length, events.length);

function step(by) {
  change({ at: Math.max(1, Math.min(events.length, currentPosition() + by)) });
}

/** Request as of the time before event number `at`, starting at 1. */
function requestBefore(at) {
  const history = events.slice(0, at - 1).map((event) => {
    const entry = { item: event.item };
    for (const name of ["action", "value", "time"]) if (event[name] !== null && event[name] !== undefined) entry[name] = event[name];
    return entry;
  });
  return buildRequest({ user: undefined, history, time: events[at - 1].time ?? undefined });
}

const responseBefore = (at) => responses.get(JSON.stringify(requestBefore(at)));
const rankOfEvent = (at) => responseBefore(at).items.findIndex((item) => item.id === events[at - 1].item) + 1;

function showPosition() {
  if (!parts) return;
  const at = currentPosition(), event = events[at - 1];
  const title = { id: event.item, title: event.title };
  parts.slider.value = at;
  parts.slider.setAttribute("aria-valuetext", `before event ${at} of ${events.length}, ${titleText(title)}`);
  parts.earlier.disabled = at === 1;
  parts.later.disabled = at === events.length;
  parts.position.replaceChildren(`Before event ${formatCount(at)} of ${formatCount(events.length)}${formatDate(event.time) ? `, ${formatDate(event.time)}` : ""}. Next item: `, titleElement(title), ".");
  const past = events.slice(Math.max(0, at - 1 - MAX_PAST), at - 1).reverse();
  parts.past.setAttribute("aria-label", "Events before the selected one, newest first");
  parts.past.replaceChildren(...past.map((one) => h("li", {}, titleElement({ id: one.item, title: one.title }), h("span", { class: "note" }, formatDate(one.time)))));
  if (!past.length) parts.past.replaceChildren(h("li", { class: "muted" }, "No events."));
  clearTimeout(timer);
  if (responseBefore(at)) showResponse(at);
  else timer = setTimeout(load, DEBOUNCE_MS);
  drawTimeline();
}

async function load() {
  pending?.abort();
  const { signal } = (pending = new AbortController());
  const at = currentPosition(), body = requestBefore(at);
  parts.list.setAttribute("aria-busy", "true");
  if (!parts.list.hasChildNodes()) parts.list.append(loadingMessage());
  try {
    const response = await call("POST", "recommend", { body, signal });
    if (signal.aborted) return;
    responses.set(JSON.stringify(body), response);
    showResponse(at);
    drawTimeline();
  } catch (error) {
    if (!signal.aborted) parts?.list.replaceChildren(errorMessage(error, load));
  }
}

function showResponse(at) {
  const response = responseBefore(at), next = events[at - 1], rank = rankOfEvent(at);
  const wasSeen = events.slice(0, at - 1).some((event) => event.item === next.item);
  const verdict = rank ? `The next item was recommended at rank ${rank}.`
    : wasSeen && !state.include_seen ? "The next item had been seen before, and seen items are excluded." : `The next item was not among the ${response.items.length} recommended items.`;
  parts.list.removeAttribute("aria-busy");
  parts.list.replaceChildren(
    h("p", { class: rank ? "verdict hit" : "verdict" }, h("span", { class: "sign", "aria-hidden": "true" }, rank ? "✓" : "–"), verdict), modelLine(response),
    ranking(response.items, { label: "Recommendations before the event", highlighted: new Set([next.item]), tag: (item) => (item.id === next.item ? h("span", { class: "tag hit" }, "next item") : null) }));
  announce(`Before event ${at}: ${verdict}`);
}

/** A mark for each event: hit, miss, or not requested yet. */
function drawTimeline() {
  const n = events.length, hits = [], misses = [];
  for (let at = 1; at <= n; at++) if (responseBefore(at)) (rankOfEvent(at) ? hits : misses).push(at);
  const rest = Array.from({ length: n }, (_, index) => index + 1).filter((at) => !responseBefore(at));
  const marks = (list, mark, height) => svg("path", { class: mark, d: list.map((at) => `M${at} 10V${10 - height}`).join("") });
  parts.timeline.classList.toggle("dense", n > 60);
  parts.timeline.replaceChildren(svg("svg", { viewBox: `1 0 ${Math.max(1, n - 1)} 10`, preserveAspectRatio: "none", "aria-hidden": "true" },
    marks(rest, "rest", 1.5), marks(misses, "miss", 4), marks(hits, "hit", 10)));
  const replayed = hits.length + misses.length;
  parts.summary.textContent = replayed ? `Hit rate at ${state.k}: ${formatCount(hits.length)} of ${formatQuantity(replayed, "replayed event")}.` : "";
}

async function replayAll() {
  const positions = Array.from({ length: Math.min(MAX_REPLAYED, events.length) }, (_, index) => events.length - index).filter((at) => !responseBefore(at));
  const own = parts;
  own.all.disabled = true;
  try {
    for (let start = 0; start < positions.length; start += BATCH_SIZE) {
      const requests = positions.slice(start, start + BATCH_SIZE).map(requestBefore);
      const batch = await call("POST", "recommend/batch", { body: { requests } });
      requests.forEach((request, index) => responses.set(JSON.stringify(request), batch.responses[index]));
      if (parts !== own) return;
      drawTimeline();
    }
    if (responseBefore(currentPosition())) showResponse(currentPosition());
    announce(own.summary.textContent);
  } catch (error) {
    if (parts === own) own.list.replaceChildren(errorMessage(error, replayAll));
  }
  own.all.disabled = false;
}
