// List of available models.

import { ApiError, call } from "./api.js";

let list = { models: [], previous: null, error: null };
const listeners = [];

/** `{models, previous, error}`; without models while loading or after an error. */
export const modelList = () => list;

/** `listener()` is called when the list has changed. */
export const onModelsChange = (listener) => listeners.push(listener);

/** Kinds of event that the active model knows, and the one that is assumed for events without a kind. */
export function eventKinds() {
  const { actions = [], target = null } = list.models.find((model) => model.active) ?? {};
  return { actions, target };
}

/** Name of a model with its kind. */
export function modelLabel(name) {
  const model = list.models.find((other) => other.name === name);
  return model && model.key !== name ? `${name} (${model.key})` : name;
}

/** Load the list again. */
export async function reloadModels() {
  try {
    list = { error: null, ...(await call("GET", "models")) };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    list = { models: [], previous: null, error };
  }
  listeners.forEach((listener) => listener());
}
