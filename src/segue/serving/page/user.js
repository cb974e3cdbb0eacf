// Selected user as stored by the service, loaded once for all views.

import { ApiError, call, path } from "./api.js";
import { cacheTitles } from "./items.js";
import { onStateChange, state } from "./state.js";

const MAX_EVENTS = 200;

let pending = null;
let current = { id: null, user: null, error: null };
const listeners = [];

/** `{id, user, error}`; `user` is null while loading or after an error. */
export const currentUser = () => current;

/** `listener()` is called when the user or their data has changed. */
export const onUserChange = (listener) => listeners.push(listener);

/** Load the user again. */
export async function reloadUser() {
  pending?.abort();
  const { signal } = (pending = new AbortController());
  const id = state.user;
  if (id !== current.id) update({ id, user: null, error: null });
  if (id === null) return;
  try {
    const user = await call("GET", path("users", id), { query: { limit: MAX_EVENTS }, signal });
    if (signal.aborted) return;
    cacheTitles(user.events.map(({ item, title }) => ({ id: item, title })));
    update({ id, user, error: null });
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiError)) throw error;
    const unknown = { id, known: false, events: [], total: 0, deleted: false };
    update(error.status === 404 ? { id, user: unknown, error: null } : { id, user: null, error });
  }
}

onStateChange((changed) => {
  if (changed.has("user")) reloadUser();
});

function update(value) {
  current = value;
  listeners.forEach((listener) => listener());
}
