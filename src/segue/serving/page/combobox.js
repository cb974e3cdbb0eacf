// Text field with suggestions.
// Pattern "Editable Combobox With List Autocomplete" of the ARIA Authoring Practices.

import { ApiError } from "./api.js";
import { h, sanitize, uniqueId } from "./dom.js";

const DEBOUNCE_MS = 120;

/**
 * `search(text, signal)` resolves to options `{id, label, note}`; `onSelect(option)` is called with the selected one,
 * `onBackspace()` for Backspace in an empty field, and `emptyText(text)` returns the message without options. With `keep`
 * the field shows the selected option, otherwise it is cleared.
 */
export function combobox({ label, hint = "", placeholder = "", emptyText, search, onSelect, onBackspace, keep = false, hidden = false }) {
  const id = uniqueId("box");
  const input = h("input", {
    id, role: "combobox", type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 256,
    placeholder, "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": `${id}-list`,
    "aria-describedby": hint ? `${id}-hint` : null,
  });
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const status = h("p", { class: "search-status", role: "status" });
  const element = h(
    "div", { class: "combobox" },
    h("label", { for: id, class: hidden ? "visually-hidden" : null }, label),
    h("div", { class: "drop" }, input, list, status),
    hint ? h("p", { class: "hint", id: `${id}-hint` }, hint) : null,
  );
  let options = [], active = -1, timer, pending;

  function close() {
    clearTimeout(timer);
    pending?.abort();
    list.hidden = true;
    options = [];
    status.textContent = "";
    input.setAttribute("aria-expanded", "false");
    setActive(-1);
  }

  function setActive(index) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = index;
    const option = list.children[active];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function select(option) {
    input.value = keep ? option.label : "";
    close();
    onSelect(option);
  }

  function show(results) {
    options = results;
    list.replaceChildren(...options.map((option, index) => h(
      "li", { role: "option", id: `${id}-${index}`, "aria-selected": "false", on: { click: () => select(option) } },
      h("bdi", { dir: "auto", class: "title" }, sanitize(option.label)),
      option.note ? h("span", { class: "note" }, option.note) : null,
    )));
    list.hidden = options.length === 0;
    input.setAttribute("aria-expanded", String(options.length > 0));
    status.textContent = options.length ? "" : emptyText(input.value.trim());
    setActive(-1);
  }

  async function open(then) {
    clearTimeout(timer);
    pending?.abort();
    const { signal } = (pending = new AbortController());
    const slow = setTimeout(() => { if (list.hidden) status.textContent = "Searching…"; }, 250);
    try {
      const results = await search(input.value.trim(), signal);
      if (signal.aborted) return;
      show(results);
      then?.();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      show([]);
      status.textContent = error.message + (error.requestId ? ` (request id ${error.requestId})` : "");
    } finally {
      clearTimeout(slow);
    }
  }

  const last = () => options.length - 1;
  const keys = {
    ArrowDown: (event) => (list.hidden ? open(() => !event.altKey && setActive(0)) : setActive(active === last() ? 0 : active + 1)),
    ArrowUp: () => (list.hidden ? open(() => setActive(last())) : setActive(active <= 0 ? last() : active - 1)),
    Enter: () => {
      if (!list.hidden && options.length) select(options[Math.max(active, 0)]);
      else if (input.value.trim()) open(() => options.length && select(options[0]));
    },
    Escape: () => {
      if (list.hidden && !status.textContent) input.value = "";
      close();
    },
  };
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Backspace" && !event.repeat && input.value === "") onBackspace?.();
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key](event);
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(open, DEBOUNCE_MS);
  });
  input.addEventListener("click", () => list.hidden && open());
  input.addEventListener("blur", close);
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus

  return { element, input };
}
