// Who asks: a user of the service, or a history that is put together here.

import { Fault, call, path } from "./api.js";
import { fetched, item, search } from "./catalogue.js";
import { combobox } from "./combobox.js";
import { confirmed } from "./dialog.js";
import { button, called, h, name, tell } from "./element.js";
import { faulty, loading } from "./message.js";
import { count, counted, date } from "./number.js";
import { meet, person, reload } from "./person.js";
import { change, state, watch } from "./state.js";

const LATELY = 5;
const COPIED = 50;
const MANY = 1000;

let folded = null; // whether the latest events were folded away by hand

const modes = h("fieldset", { class: "switch" }, h("legend", { class: "unseen" }, "Who asks"),
  mode("user", "A user"), mode("history", "A history"));
const facts = h("div", { id: "person" });
const chosen = h("ol", { class: "chosen", "aria-label": "History, oldest first" });
const user = combobox({
  label: "User", placeholder: "Search by id", keep: true, search: people,
  none: () => "Nobody of this id.", choose: ({ id }) => change({ user: id, at: null }),
});
const title = combobox({
  label: "Add what happened next", placeholder: "Search by title", search,
  hint: "Oldest first. Backspace in the empty field takes the last one away.",
  none: (text) => (text ? "No title holds this." : "The catalogue is empty."),
  choose: ({ id, label }) => {
    become([...state.history, id]);
    tell(`${name({ id, title: label })} added.`);
  },
  back: () => state.history.length && remove(state.history.length - 1, false),
});
const byUser = h("div", { id: "by-user" },
  h("div", { class: "with-button" }, user.element, h("button", { type: "button", class: "button", on: { click: anybody } }, "Random")), facts);
const byHistory = h("div", { id: "by-history" }, chosen, title.element);

export function begin() {
  document.getElementById("who").append(modes, byUser, byHistory);
  watch((changed) => {
    if (["who", "user", "history"].some((part) => changed.has(part))) show();
  });
  meet(showPerson);
  show();
}

/** Choose a user at random: one of those that a random piece of somebody's id finds. */
export async function anybody() {
  try {
    const { users } = await call("GET", "users", { query: { query: "", limit: MANY } });
    if (!users.length) return tell("The service knows no users.");
    let found = users;
    if (users.length === MANY) {
      const piece = String(Math.floor(10 + 90 * Math.random()));
      const more = await call("GET", "users", { query: { query: piece, limit: MANY } });
      if (more.users.length) found = more.users;
    }
    change({ who: "user", user: found[Math.floor(Math.random() * found.length)], at: null });
  } catch (error) {
    facts.replaceChildren(faulty(error, anybody));
  }
}

function mode(which, text) {
  const radio = h("input", { type: "radio", name: "who", value: which, on: { change: () => change({ who: which, at: null }) } });
  return h("label", {}, radio, h("span", {}, text));
}

function show() {
  for (const radio of modes.querySelectorAll("input")) radio.checked = radio.value === state.who;
  byUser.hidden = state.who !== "user";
  byHistory.hidden = state.who !== "history";
  if (document.activeElement !== user.input || state.user !== null) user.input.value = state.user ?? "";
  showHistory();
}

async function people(query, signal) {
  const { users } = await call("GET", "users", { query: { query, limit: 12 }, signal });
  const found = users.map((id) => ({ id, label: id }));
  if (query && !users.includes(query)) found.push({ id: query, label: query, note: "somebody new" });
  return found;
}

function showPerson() {
  const { id, person: told, fault } = person();
  if (id === null) return facts.replaceChildren();
  if (fault) return facts.replaceChildren(faulty(fault, reload));
  if (!told) return facts.replaceChildren(loading("Looking up…"));
  const wide = matchMedia("(min-width: 60rem)").matches;
  const lately = told.events.slice(-LATELY).reverse();
  const known = told.forgotten ? "Was deleted: what was there in training is not used."
    : told.known ? `There in training; ${counted(told.total, "event")}.`
      : told.total ? `Not there in training; ${counted(told.total, "event")} since.`
        : "Nobody of this id yet: the first event makes them known.";
  facts.replaceChildren(
    h("p", { class: "soft" }, known),
    lately.length ? h("details", { open: folded === null ? wide : !folded, on: { toggle: (event) => (folded = !event.currentTarget.open) } }, h("summary", {}, "Lately"), h("ol", { class: "lately", "aria-label": "Latest events, newest first" }, lately.map((event) => h("li", {}, called({ id: event.item, title: event.title }),
      h("span", { class: "note" }, [event.action, event.value === null ? "" : count(event.value), date(event.time), event.source === "service" ? "since training" : ""].filter(Boolean).join(" · ")))))) : "",
    h("div", { class: "row" },
      told.events.length ? button("Change a copy of it", null, copy) : "",
      told.total ? button("Delete this user…", null, forget) : ""),
  );
}

/** The user's history as one that can be changed here; their own stays. */
function copy() {
  const { person: told } = person();
  change({ who: "history", history: told.events.slice(-COPIED).map((event) => event.item), at: null });
  title.input.focus();
  tell("This copy can be changed; the user's own history stays as it is.");
}

async function forget() {
  const { id, person: told } = person();
  const text = `All ${counted(told.total, "event")} of ${name({ id })} are deleted or no longer used, for good.`;
  if (!(await confirmed("Delete this user?", text, "Delete"))) return;
  try {
    await call("DELETE", path("users", id));
    tell(`${name({ id })} was deleted.`);
    change({ user: null });
    user.input.focus();
  } catch (error) {
    facts.replaceChildren(faulty(error, reload));
  }
}

async function showHistory() {
  draw();
  if (state.who !== "history") return;
  try {
    await fetched(state.history);
    draw();
  } catch (error) {
    if (!(error instanceof Fault)) throw error; // ids stand for the titles
  }
}

function draw() {
  const focus = document.activeElement?.dataset?.place;
  chosen.replaceChildren(...state.history.map((id, place) => h(
    "li", {}, called(item(id)),
    h("span", { class: "moves" },
      move("↑", "Earlier:", place, place - 1), move("↓", "Later:", place, place + 1),
      icon("×", "Remove", place, () => remove(place, true))),
  )));
  if (focus) chosen.querySelector(`[data-place="${focus}"]`)?.focus();
}

function move(sign, words, place, to) {
  const id = state.history[place];
  const click = () => {
    const order = [...state.history];
    [order[place], order[to]] = [order[to], order[place]];
    become(order);
    const same = chosen.querySelector(`[data-place="${words} ${to}"]`);
    (same?.disabled ? chosen.children[to].querySelector("button:enabled") : same)?.focus();
    tell(`${name(item(id))} is now ${to + 1} of ${order.length}.`);
  };
  return icon(sign, words, place, click, to < 0 || to >= state.history.length);
}

function icon(sign, words, place, click, disabled = false) {
  const label = `${words} ${name(item(state.history[place]))}`;
  return h("button", { type: "button", class: "quiet icon", disabled, "data-place": `${words} ${place}`, "aria-label": label, on: { click } }, sign);
}

function remove(place, refocus) {
  const gone = item(state.history[place]);
  become(state.history.filter((_, index) => index !== place));
  if (refocus) (chosen.querySelector(`[data-place="Remove ${Math.min(place, state.history.length - 1)}"]`) ?? title.input).focus();
  tell(`${name(gone)} removed.`);
}

const become = (history) => change({ history, at: null });
