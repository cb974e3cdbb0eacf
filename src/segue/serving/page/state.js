// What is asked and what is looked at, kept in the fragment of the address: it can be passed on, and no server sees it.

const PLAIN = {
  view: "next", who: "user", user: null, history: [], k: 10, model: null, repeats: false, diversify: 0,
  where: {}, boosts: [], most: {}, deny: [], a: null, b: null, at: null,
};
const VIEWS = ["next", "travel", "compare", "operate"];
const MOST_K = 100;
const AGAIN = ["view", "who", "user"]; // changes that the browser's back button undoes

export const state = structuredClone(PLAIN);
const watchers = [];

/** `watcher(changed)` is called after every change with the names of what changed. */
export const watch = (watcher) => watchers.push(watcher);

export function change(patch) {
  const changed = Object.keys(patch).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(patch[name]));
  if (!changed.length) return;
  Object.assign(state, patch);
  const address = `#${written()}`;
  if (changed.some((name) => AGAIN.includes(name))) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  watchers.forEach((watcher) => watcher(new Set(changed)));
}

/** Take over what the address says; whether all of it could be read. */
export function follow() {
  const [found, understood] = read(location.hash.slice(1));
  const changed = Object.keys(PLAIN).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(found[name]));
  Object.assign(state, found);
  if (changed.length) watchers.forEach((watcher) => watcher(new Set(changed)));
  return understood;
}

/** Whether there is anybody to ask for. */
export const somebody = () => state.who === "history" || state.user !== null;

/** Who asks, as one text: answers to the same person can be compared. */
export const person = () => (state.who === "user" ? `user ${state.user}` : "history");

/** The question as it goes over the wire; `instead` overrides parts, and undefined leaves them out. */
export function question(instead = {}) {
  const asked = state.who === "user" ? { user: state.user } : { history: state.history };
  asked.k = state.k;
  for (const name of ["model", "repeats", "diversify"]) if (state[name] !== PLAIN[name]) asked[name] = state[name];
  for (const name of ["where", "boosts", "most", "deny"]) if (Object.keys(state[name]).length) asked[name] = state[name];
  return JSON.parse(JSON.stringify({ ...asked, ...instead }));
}

function written() {
  const told = new URLSearchParams({ view: state.view });
  if (state.who === "history") told.set("history", JSON.stringify(state.history));
  else if (state.user !== null) told.set("user", state.user);
  for (const name of ["k", "model", "diversify", "a", "b", "at"]) {
    if (state[name] !== PLAIN[name]) told.set(name, state[name]);
  }
  if (state.repeats) told.set("repeats", "1");
  for (const name of ["where", "boosts", "most", "deny"]) {
    if (Object.keys(state[name]).length) told.set(name, JSON.stringify(state[name]));
  }
  return told.toString();
}

function read(text) {
  const told = new URLSearchParams(text);
  const found = structuredClone(PLAIN);
  let understood = true;
  const take = (name, convert, fits) => {
    if (!told.has(name)) return;
    try {
      const value = convert(told.get(name));
      if (!fits(value)) throw new TypeError(name);
      found[name] = value;
    } catch {
      understood = false;
    }
  };
  const record = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const texts = (value) => Array.isArray(value) && value.every((one) => typeof one === "string");
  take("view", String, (view) => VIEWS.includes(view));
  take("history", JSON.parse, texts);
  if (told.has("history")) found.who = "history";
  else take("user", String, (user) => user.length > 0 && user.length <= 256);
  take("k", Number, (k) => Number.isInteger(k) && k >= 1 && k <= MOST_K);
  take("diversify", Number, (share) => share >= 0 && share <= 1);
  take("repeats", (one) => one === "1", () => true);
  take("at", Number, (at) => Number.isInteger(at) && at >= 1);
  for (const name of ["model", "a", "b"]) take(name, String, (model) => model.length > 0);
  take("where", JSON.parse, (where) => record(where) && Object.values(where).every(record));
  take("boosts", JSON.parse, (boosts) => Array.isArray(boosts) && boosts.every((b) => record(b) && record(b.where) && Object.values(b.where).every(record) && Number.isFinite(b.factor)));
  take("most", JSON.parse, (most) => record(most) && Object.values(most).every(Number.isInteger));
  take("deny", JSON.parse, texts);
  return [found, understood];
}
