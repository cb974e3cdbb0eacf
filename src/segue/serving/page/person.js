// The chosen user, as the service knows him; loaded once for everybody who looks.

import { Fault, call, path } from "./api.js";
import { heard } from "./catalogue.js";
import { state, watch } from "./state.js";

const EVENTS = 200;

let asked = null;
let loaded = { id: null, person: null, fault: null };
const watchers = [];

/** `{id, person, fault}`: `person` is null while it loads, or when `fault` says why not. */
export const person = () => loaded;

/** `watcher()` is called when another person is there, or more is known of the same. */
export const meet = (watcher) => watchers.push(watcher);

/** Load the user again. */
export async function reload() {
  asked?.abort();
  const { signal } = (asked = new AbortController());
  const id = state.user;
  if (id !== loaded.id) found({ id, person: null, fault: null });
  if (id === null) return;
  try {
    const told = await call("GET", path("users", id), { query: { limit: EVENTS }, signal });
    if (signal.aborted) return;
    heard(told.events.map(({ item, title }) => ({ id: item, title })));
    found({ id, person: told, fault: null });
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Fault)) throw error;
    const nobody = { id, known: false, events: [], total: 0, forgotten: false };
    found(error.status === 404 ? { id, person: nobody, fault: null } : { id, person: null, fault: error });
  }
}

watch((changed) => {
  if (changed.has("user")) reload();
});

function found(now) {
  loaded = now;
  watchers.forEach((watcher) => watcher());
}
