// Query and view, stored in the URL fragment, which can be shared and is not sent to any server.

const DEFAULTS = {
  view: "recommend", mode: "user", user: null, history: [], k: 10, model: null, include_seen: false, diversify: 0,
  filter: {}, boosts: [], max_per_value: {}, deny: [], a: null, b: null, at: null,
};
const VIEWS = ["recommend", "replay", "compare", "operations"];
const RULES = ["filter", "boosts", "max_per_value", "deny"];
const MAX_K = 100;
const HISTORY_ENTRIES = ["view", "mode", "user"]; // changes that the browser's back button undoes

export const state = structuredClone(DEFAULTS);
const listeners = [];

/** `listener(changed)` is called after every change with the set of changed names. */
export const onStateChange = (listener) => listeners.push(listener);

export function change(patch) {
  const changed = Object.keys(patch).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(patch[name]));
  if (!changed.length) return;
  Object.assign(state, patch);
  const address = `#${toFragment()}`;
  if (changed.some((name) => HISTORY_ENTRIES.includes(name))) history.pushState(null, "", address);
  else history.replaceState(null, "", address);
  listeners.forEach((listener) => listener(new Set(changed)));
}

/** Restore the state from the URL fragment and return whether all of it was valid. */
export function restore() {
  const [restored, isValid] = fromFragment(location.hash.slice(1));
  const changed = Object.keys(DEFAULTS).filter((name) => JSON.stringify(state[name]) !== JSON.stringify(restored[name]));
  Object.assign(state, restored);
  if (changed.length) listeners.forEach((listener) => listener(new Set(changed)));
  return isValid;
}

/** Whether a user or a history is selected. */
export const hasQuery = () => state.mode === "history" || state.user !== null;

/** Identifies the user or history, so that only lists of the same one are compared. */
export const queryId = () => (state.mode === "user" ? `user ${state.user}` : "history");

/** Build the body of a recommendation request; `overrides` replaces fields, and undefined removes them. */
export function buildRequest(overrides = {}) {
  const request = state.mode === "user" ? { user: state.user } : { history: state.history };
  request.k = state.k;
  for (const name of ["model", "include_seen", "diversify"]) if (state[name] !== DEFAULTS[name]) request[name] = state[name];
  for (const name of RULES) if (Object.keys(state[name]).length) request[name] = state[name];
  return JSON.parse(JSON.stringify({ ...request, ...overrides }));
}

function toFragment() {
  const parameters = new URLSearchParams({ view: state.view });
  if (state.mode === "history") parameters.set("history", JSON.stringify(state.history));
  else if (state.user !== null) parameters.set("user", state.user);
  for (const name of ["k", "model", "diversify", "a", "b", "at"]) {
    if (state[name] !== DEFAULTS[name]) parameters.set(name, state[name]);
  }
  if (state.include_seen) parameters.set("include_seen", "1");
  for (const name of RULES) {
    if (Object.keys(state[name]).length) parameters.set(name, JSON.stringify(state[name]));
  }
  return parameters.toString();
}

function fromFragment(text) {
  const parameters = new URLSearchParams(text);
  const restored = structuredClone(DEFAULTS);
  let isValid = true;
  const read = (name, convert, check) => {
    if (!parameters.has(name)) return;
    try {
      const value = convert(parameters.get(name));
      if (!check(value)) throw new TypeError(name);
      restored[name] = value;
    } catch {
      isValid = false;
    }
  };
  const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
  const areStrings = (value) => Array.isArray(value) && value.every((text) => typeof text === "string");
  const isFilter = (filter) => isObject(filter) && Object.values(filter).every(isObject);
  read("view", String, (view) => VIEWS.includes(view));
  read("history", JSON.parse, areStrings);
  if (parameters.has("history")) restored.mode = "history";
  else read("user", String, (user) => user.length > 0 && user.length <= 256);
  read("k", Number, (k) => Number.isInteger(k) && k >= 1 && k <= MAX_K);
  read("diversify", Number, (weight) => weight >= 0 && weight <= 1);
  read("include_seen", (text) => text === "1", () => true);
  read("at", Number, (at) => Number.isInteger(at) && at >= 1);
  for (const name of ["model", "a", "b"]) read(name, String, (model) => model.length > 0);
  read("filter", JSON.parse, isFilter);
  read("boosts", JSON.parse, (boosts) => Array.isArray(boosts) && boosts.every((boost) => isObject(boost) && isFilter(boost.filter) && Number.isFinite(boost.factor)));
  read("max_per_value", JSON.parse, (limits) => isObject(limits) && Object.values(limits).every(Number.isInteger));
  read("deny", JSON.parse, areStrings);
  return [restored, isValid];
}
