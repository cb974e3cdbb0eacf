// Modal dialogs: confirmation and API key.

import { key } from "./api.js";

const find = (id) => document.getElementById(id);

/** Ask for confirmation and resolve to whether it was given. */
export function confirm(title, text, action) {
  const dialog = find("confirm");
  find("confirm-title").textContent = title;
  find("confirm-text").textContent = text;
  find("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/** Set up the API key dialog and return a function that opens it; `onChange()` is called when the key changes. */
export function setUpKeyDialog(onChange) {
  const dialog = find("key"), input = find("key-input"), opener = find("key-button");
  const show = () => {
    opener.hidden = false;
    find("key-remove").hidden = key.get() === null;
    if (!dialog.open) dialog.showModal();
  };
  opener.hidden = key.get() === null;
  opener.addEventListener("click", show);
  find("key-cancel").addEventListener("click", () => dialog.close());
  find("key-remove").addEventListener("click", () => {
    key.remove();
    dialog.close();
    onChange();
  });
  find("key-form").addEventListener("submit", () => {
    key.set(input.value.trim());
    input.value = "";
    onChange();
  });
  return show;
}
