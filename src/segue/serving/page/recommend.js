// View "Recommend": recommendations, explanations, and changes after an event.

import { call, createKey } from "./api.js";
import { combobox } from "./combobox.js";
import { announce, button, h, sanitize, screenReaderText, titleElement, titleText, uniqueId } from "./dom.js";
import { explanation } from "./explanation.js";
import { cachedItem, cacheTitles, searchItems } from "./items.js";
import { emptyMessage, errorMessage, loadingMessage } from "./message.js";
import { animateRows, compareLists, NO_CHANGES, rankChangeTag, rowPositions, summarize } from "./rank_changes.js";
import { modelLine, ranking, responseNotes } from "./ranking.js";
import { eventKinds, onModelsChange } from "./models.js";
import { requestExample } from "./request_example.js";
import { denyItem } from "./rules.js";
import { showItem } from "./similar_items.js";
import { buildRequest, change, hasQuery, onStateChange, queryId, state } from "./state.js";
import { reloadUser } from "./user.js";
import { selectRandomUser } from "./user_panel.js";

const DEBOUNCE_MS = 150;

const panel = document.getElementById("recommend");
let previous = null; // {id, items} of the response shown
let lastEvent = null; // {id, text}: event since that response
const kind = h("select", { id: "event-kind" });
const kindField = h("div", { class: "event-kind", hidden: true }, h("label", { for: "event-kind" }, "Kind of added events"), kind);
let pending = null, timer;

export function start() {
  onModelsChange(updateKinds);
  onStateChange((changed) => {
    if (state.view !== "recommend" || ["at", "a", "b"].some((name) => changed.has(name) && changed.size === 1)) return;
    clearTimeout(timer);
    timer = setTimeout(load, changed.has("view") || changed.has("user") || changed.has("mode") ? 0 : DEBOUNCE_MS);
  });
  if (state.view === "recommend") load();
}

/** Request recommendations and show what changed since the last response. */
export async function load() {
  pending?.abort();
  const { signal } = (pending = new AbortController());
  if (!hasQuery()) {
    previous = null;
    panel.replaceChildren(emptyMessage("Choose a user or build a history to see recommendations.",
      h("button", { type: "button", class: "button primary", on: { click: selectRandomUser } }, "Random user"),
      h("button", { type: "button", class: "button", on: { click: () => change({ mode: "history" }) } }, "Empty history")));
    return;
  }
  const body = buildRequest(), id = queryId();
  panel.setAttribute("aria-busy", "true");
  if (previous?.id !== id) panel.replaceChildren(loadingMessage());
  const start = performance.now();
  try {
    const response = await call("POST", "recommend", { body, signal });
    if (signal.aborted) return;
    cacheTitles(response.items);
    render(response, body, id, Math.round(performance.now() - start));
  } catch (error) {
    if (signal.aborted) return;
    previous = null;
    panel.replaceChildren(errorMessage(error, load));
  }
  panel.removeAttribute("aria-busy");
}

function render(response, body, id, latency) {
  const differences = previous?.id === id ? compareLists(previous.items, response.items) : null;
  if (differences) differences.removed = differences.removed.filter((item) => item.id !== lastEvent?.id);
  updateKinds();
  const focus = focusedButton(), positions = rowPositions(panel);
  const list = ranking(response.items, {
    label: "Recommended items, best first",
    tag: (item) => (differences ? rankChangeTag(differences.changes.get(item.id)) : null),
    details: (item) => itemDetails(item, body),
    action: (item) => h("button", { type: "button", class: "button add-event", on: { click: (event) => addEvent(item, event.currentTarget) } },
      "Add event", screenReaderText(` ${titleText(item)}`)),
  });
  panel.replaceChildren(
    h("div", { class: "spread head" }, h("h2", {}, "Recommendations"), modelLine(response, latency)),
    kindField, h("div", { class: "event-error" }),
    differences && (lastEvent || summarize(differences) !== NO_CHANGES) ? changeSummary(differences) : "",
    response.items.length ? list : emptyMessage("The rules leave no items to recommend."),
    responseNotes(response), explainOther(body), requestExample("recommend", body, response),
  );
  const first = response.items.length ? titleText(response.items[0]) : "none";
  announce(`${lastEvent ? `${lastEvent.text} ` : ""}${response.items.length} items${differences ? `: ${summarize(differences)}` : ""}. First: ${first}.`);
  previous = { id, items: response.items };
  lastEvent = null;
  if (differences) animateRows(list, positions);
  if (focus) restoreFocus(focus);
}

function changeSummary(differences) {
  const removed = differences.removed.slice(0, 10).map((item, index) => [index ? ", " : null, titleElement(item)]).flat();
  return h("p", { class: "change-summary" }, `${lastEvent?.text ?? "Since the last response:"} ${summarize(differences)}.`, removed.length ? [" Removed: ", ...removed, "."] : null);
}

function itemDetails(item, body) {
  const id = uniqueId("explanation");
  const box = h("div", { id, hidden: true });
  const opener = button("Explain", item, () => {
    box.hidden = !box.hidden;
    opener.setAttribute("aria-expanded", String(!box.hidden));
    if (!box.hidden && !box.hasChildNodes()) box.append(explanation(body, item.id));
  }, { "aria-expanded": "false", "aria-controls": id });
  return h("div", { class: "item-details" }, h("div", { class: "actions" }, opener, button("Similar", item, () => showItem(item.id)), button("Exclude", item, () => denyItem(item.id))), box);
}

/** Row and button that have the focus, which must stay there while the list changes. */
function focusedButton() {
  const rows = [...panel.querySelectorAll(".ranking > li")];
  const row = rows.findIndex((one) => one.contains(document.activeElement));
  return row < 0 ? null : { row, button: [...rows[row].querySelectorAll("button")].indexOf(document.activeElement) };
}

function restoreFocus({ row, button: index }) {
  const rows = panel.querySelectorAll(".ranking > li");
  const target = rows[Math.min(row, rows.length - 1)];
  (target?.querySelectorAll("button")[index] ?? panel).focus();
}

/** Offer the kinds of event of the active model, if it has several; events of a custom history have none. */
function updateKinds() {
  const { actions, target } = eventKinds();
  const options = [...kind.options].map((option) => option.value);
  if (JSON.stringify(options) !== JSON.stringify(actions)) {
    const selected = actions.includes(kind.value) ? kind.value : target ?? actions[0];
    kind.replaceChildren(...actions.map((action) => h("option", { value: action, selected: action === selected }, sanitize(action))));
  }
  kindField.hidden = actions.length < 2 || state.mode !== "user";
}

/** Store an event and reload. A retry uses the same idempotency key, so that the event is stored once. */
async function addEvent(item, pressed, key = createKey(), action = kind.value || undefined) {
  lastEvent = { id: item.id, text: `After ${titleText(item)}:` };
  if (state.mode === "history") return change({ history: [...state.history, item.id] });
  pressed.setAttribute("aria-disabled", "true");
  try {
    const result = await call("POST", "events", { body: { user: state.user, item: item.id, action, key } });
    if (result.duplicates) lastEvent.text = `${titleText(item)} was already stored:`;
    await Promise.all([load(), reloadUser()]);
  } catch (error) {
    lastEvent = null;
    pressed.removeAttribute("aria-disabled");
    panel.querySelector(".event-error").replaceChildren(errorMessage(error, () => addEvent(item, pressed, key, action)));
  }
}

/** Explanation of an item that is not in the list. */
function explainOther(body) {
  const box = h("div", {});
  const chooser = combobox({
    label: "Explain another item", placeholder: "Search by title", search: searchItems, keep: true, emptyText: () => "No matching title.",
    onSelect: ({ id }) => box.replaceChildren(h("p", { class: "name" }, titleElement(cachedItem(id))), explanation(body, id)),
  });
  return h("section", { class: "explain-other", "aria-label": "Explanation of another item" }, chooser.element, box);
}
