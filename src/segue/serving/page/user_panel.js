// Panel that selects a known user or edits a custom history.

import { ApiError, call, path } from "./api.js";
import { combobox } from "./combobox.js";
import { confirm } from "./dialog.js";
import { announce, button, h, titleElement, titleText } from "./dom.js";
import { formatCount, formatDate, formatQuantity } from "./format.js";
import { cachedItem, loadItems, searchItems } from "./items.js";
import { errorMessage, loadingMessage } from "./message.js";
import { change, onStateChange, state } from "./state.js";
import { currentUser, onUserChange, reloadUser } from "./user.js";

const MAX_RECENT = 5;
const MAX_COPIED = 50;
const MAX_USERS = 1000;

let isCollapsed = null; // whether the user collapsed the recent events

const modes = h("fieldset", { class: "switch" }, h("legend", { class: "visually-hidden" }, "Query"),
  modeOption("user", "Known user"), modeOption("history", "Custom history"));
const details = h("div", { id: "user-details" });
const historyItems = h("ol", { class: "history-items", "aria-label": "History, oldest first" });
const userBox = combobox({
  label: "User", placeholder: "Search by id", keep: true, search: searchUsers,
  emptyText: () => "No user with this id.", onSelect: ({ id }) => change({ user: id, at: null }),
});
const itemBox = combobox({
  label: "Add the next item", placeholder: "Search by title", search: searchItems,
  hint: "Oldest first. Backspace in the empty field removes the last item.",
  emptyText: (text) => (text ? "No matching title." : "The catalog is empty."),
  onSelect: ({ id, label }) => {
    setHistory([...state.history, id]);
    announce(`${titleText({ id, title: label })} added.`);
  },
  onBackspace: () => state.history.length && removeItem(state.history.length - 1, false),
});
const userMode = h("div", { id: "user-mode" },
  h("div", { class: "with-button" }, userBox.element, h("button", { type: "button", class: "button", on: { click: selectRandomUser } }, "Random")), details);
const historyMode = h("div", { id: "history-mode" }, historyItems, itemBox.element);

export function start() {
  document.getElementById("user-panel").append(modes, userMode, historyMode);
  onStateChange((changed) => {
    if (["mode", "user", "history"].some((name) => changed.has(name))) render();
  });
  onUserChange(renderUser);
  render();
}

/** Select a random user: with many users, one of those found by a random part of an id. */
export async function selectRandomUser() {
  try {
    const { users } = await call("GET", "users", { query: { query: "", limit: MAX_USERS } });
    if (!users.length) return announce("The service knows no users.");
    let candidates = users;
    if (users.length === MAX_USERS) {
      const part = String(Math.floor(10 + 90 * Math.random()));
      const more = await call("GET", "users", { query: { query: part, limit: MAX_USERS } });
      if (more.users.length) candidates = more.users;
    }
    change({ mode: "user", user: candidates[Math.floor(Math.random() * candidates.length)], at: null });
  } catch (error) {
    details.replaceChildren(errorMessage(error, selectRandomUser));
  }
}

function modeOption(mode, text) {
  const radio = h("input", { type: "radio", name: "mode", value: mode, on: { change: () => change({ mode, at: null }) } });
  return h("label", {}, radio, h("span", {}, text));
}

function render() {
  for (const radio of modes.querySelectorAll("input")) radio.checked = radio.value === state.mode;
  userMode.hidden = state.mode !== "user";
  historyMode.hidden = state.mode !== "history";
  if (document.activeElement !== userBox.input || state.user !== null) userBox.input.value = state.user ?? "";
  updateHistory();
}

async function searchUsers(query, signal) {
  const { users } = await call("GET", "users", { query: { query, limit: 12 }, signal });
  const options = users.map((id) => ({ id, label: id }));
  if (query && !users.includes(query)) options.push({ id: query, label: query, note: "new user" });
  return options;
}

function renderUser() {
  const { id, user, error } = currentUser();
  if (id === null) return details.replaceChildren();
  if (error) return details.replaceChildren(errorMessage(error, reloadUser));
  if (!user) return details.replaceChildren(loadingMessage("Loading user…"));
  const isWide = matchMedia("(min-width: 60rem)").matches;
  const recent = user.events.slice(-MAX_RECENT).reverse();
  const status = user.deleted ? "Deleted: the training data of this user is not used."
    : user.known ? `In the training data; ${formatQuantity(user.total, "event")}.`
      : user.total ? `Not in the training data; ${formatQuantity(user.total, "event")} since training.`
        : "Unknown user; the first event creates it.";
  const eventNote = (event) => [event.action, event.value === null ? "" : formatCount(event.value), formatDate(event.time), event.origin === "service" ? "since training" : ""].filter(Boolean).join(" · ");
  details.replaceChildren(
    h("p", { class: "muted" }, status),
    recent.length ? h("details", { open: isCollapsed === null ? isWide : !isCollapsed, on: { toggle: (event) => (isCollapsed = !event.currentTarget.open) } }, h("summary", {}, "Recent events"),
      h("ol", { class: "recent-events", "aria-label": "Recent events, newest first" }, recent.map((event) => h("li", {}, titleElement({ id: event.item, title: event.title }), h("span", { class: "note" }, eventNote(event)))))) : "",
    h("div", { class: "row" },
      user.events.length ? button("Edit a copy of the history", null, copyHistory) : "",
      user.total ? button("Delete user…", null, deleteUser) : ""),
  );
}

/** Copy the user's history into a custom history; the stored one is unchanged. */
function copyHistory() {
  const { user } = currentUser();
  change({ mode: "history", history: user.events.slice(-MAX_COPIED).map((event) => event.item), at: null });
  itemBox.input.focus();
  announce("Editing a copy; the user's stored history is unchanged.");
}

async function deleteUser() {
  const { id, user } = currentUser();
  const text = `All ${formatQuantity(user.total, "event")} of ${titleText({ id })} will be deleted or ignored permanently.`;
  if (!(await confirm("Delete this user?", text, "Delete"))) return;
  try {
    await call("DELETE", path("users", id));
    announce(`${titleText({ id })} was deleted.`);
    change({ user: null });
    userBox.input.focus();
  } catch (error) {
    details.replaceChildren(errorMessage(error, reloadUser));
  }
}

async function updateHistory() {
  renderHistory();
  if (state.mode !== "history") return;
  try {
    await loadItems(state.history);
    renderHistory();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error; // show ids instead of titles
  }
}

function renderHistory() {
  const focus = document.activeElement?.dataset?.control;
  historyItems.replaceChildren(...state.history.map((id, index) => h(
    "li", {}, titleElement(cachedItem(id)),
    h("span", { class: "reorder" },
      moveButton("↑", "Move up:", index, index - 1), moveButton("↓", "Move down:", index, index + 1),
      iconButton("×", "Remove", index, () => removeItem(index, true))),
  )));
  if (focus) historyItems.querySelector(`[data-control="${focus}"]`)?.focus();
}

function moveButton(sign, label, index, to) {
  const id = state.history[index];
  const click = () => {
    const order = [...state.history];
    [order[index], order[to]] = [order[to], order[index]];
    setHistory(order);
    const same = historyItems.querySelector(`[data-control="${label} ${to}"]`);
    (same?.disabled ? historyItems.children[to].querySelector("button:enabled") : same)?.focus();
    announce(`${titleText(cachedItem(id))} is now ${to + 1} of ${order.length}.`);
  };
  return iconButton(sign, label, index, click, to < 0 || to >= state.history.length);
}

function iconButton(sign, label, index, click, disabled = false) {
  const text = `${label} ${titleText(cachedItem(state.history[index]))}`;
  return h("button", { type: "button", class: "quiet icon", disabled, "data-control": `${label} ${index}`, "aria-label": text, on: { click } }, sign);
}

function removeItem(index, refocus) {
  const item = cachedItem(state.history[index]);
  setHistory(state.history.filter((_, other) => other !== index));
  if (refocus) (historyItems.querySelector(`[data-control="Remove ${Math.min(index, state.history.length - 1)}"]`) ?? itemBox.input).focus();
  announce(`${titleText(item)} removed.`);
}

const setHistory = (history) => change({ history, at: null });
