// Questions that stop everything else: confirmation, and the key.

import { key } from "./api.js";

const find = (id) => document.getElementById(id);

/** Ask before something is done; whether it was agreed to. */
export function confirmed(title, text, yes) {
  const dialog = find("confirm");
  find("confirm-title").textContent = title;
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Let the key be entered; `changed()` is called when it was, or was forgotten. */
export function keyed(changed) {
  const dialog = find("key"), input = find("key-input"), opener = find("key-button");
  const show = () => {
    opener.hidden = false;
    find("key-forget").hidden = key.get() === null;
    if (!dialog.open) dialog.showModal();
  };
  opener.hidden = key.get() === null;
  opener.addEventListener("click", show);
  find("key-cancel").addEventListener("click", () => dialog.close());
  find("key-forget").addEventListener("click", () => {
    key.forget();
    dialog.close();
    changed();
  });
  find("key-form").addEventListener("submit", () => {
    key.set(input.value.trim());
    input.value = "";
    changed();
  });
  return show;
}
