// The models at hand.

import { Fault, call } from "./api.js";

let told = { models: [], previous: null, fault: null };
const watchers = [];

/** `{models, previous, fault}`; without models while they load, or when `fault` says why not. */
export const models = () => told;

/** `watcher()` is called when the list is there, or another. */
export const published = (watcher) => watchers.push(watcher);

/** A model's name with its kind. */
export function labelled(name) {
  const one = told.models.find((other) => other.name === name);
  return one && one.key !== name ? `${name} (${one.key})` : name;
}

/** List the models again. */
export async function list() {
  try {
    told = { fault: null, ...(await call("GET", "models")) };
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    told = { models: [], previous: null, fault: error };
  }
  watchers.forEach((watcher) => watcher());
}
