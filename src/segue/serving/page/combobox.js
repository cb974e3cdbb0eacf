// A field with a list of what it may hold, searched for while one types.
// After the pattern "Editable Combobox With List Autocomplete" of the ARIA Authoring Practices.

import { Fault } from "./api.js";
import { clean, fresh, h } from "./element.js";

const PAUSE_MS = 120;

/**
 * `search(text, signal)` gives options `{id, label, note}`; `choose(option)` is told which one it was. `back()` is called
 * by Backspace in an empty field. With `keep` the field shows what was chosen, otherwise it is emptied for the next.
 */
export function combobox({ label, hint = "", placeholder = "", none, search, choose, back, keep = false, hidden = false }) {
  const id = fresh("box");
  const input = h("input", {
    id, role: "combobox", type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", maxlength: 256,
    placeholder, "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": `${id}-list`,
    "aria-describedby": hint ? `${id}-hint` : null,
  });
  const list = h("ul", { id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  const found = h("p", { class: "found", role: "status" });
  const element = h(
    "div", { class: "combobox" },
    h("label", { for: id, class: hidden ? "unseen" : null }, label),
    h("div", { class: "drop" }, input, list, found),
    hint ? h("p", { class: "hint", id: `${id}-hint` }, hint) : null,
  );
  let options = [], active = -1, timer, asked;

  function close() {
    clearTimeout(timer);
    asked?.abort();
    list.hidden = true;
    options = [];
    found.textContent = "";
    input.setAttribute("aria-expanded", "false");
    mark(-1);
  }

  function mark(index) {
    list.children[active]?.setAttribute("aria-selected", "false");
    active = index;
    const option = list.children[active];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) input.setAttribute("aria-activedescendant", option.id);
    else input.removeAttribute("aria-activedescendant");
  }

  function take(option) {
    input.value = keep ? option.label : "";
    close();
    choose(option);
  }

  function show(answer) {
    options = answer;
    list.replaceChildren(...options.map((option, index) => h(
      "li", { role: "option", id: `${id}-${index}`, "aria-selected": "false", on: { click: () => take(option) } },
      h("bdi", { dir: "auto", class: "title" }, clean(option.label)),
      option.note ? h("span", { class: "note" }, option.note) : null,
    )));
    list.hidden = options.length === 0;
    input.setAttribute("aria-expanded", String(options.length > 0));
    found.textContent = options.length ? "" : none(input.value.trim());
    mark(-1);
  }

  async function open(then) {
    clearTimeout(timer);
    asked?.abort();
    const { signal } = (asked = new AbortController());
    const slow = setTimeout(() => { if (list.hidden) found.textContent = "Searching…"; }, 250);
    try {
      const answer = await search(input.value.trim(), signal);
      if (signal.aborted) return;
      show(answer);
      then?.();
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Fault)) throw error;
      show([]);
      found.textContent = error.message + (error.requestId ? ` (request ${error.requestId})` : "");
    } finally {
      clearTimeout(slow);
    }
  }

  const last = () => options.length - 1;
  const keys = {
    ArrowDown: (event) => (list.hidden ? open(() => !event.altKey && mark(0)) : mark(active === last() ? 0 : active + 1)),
    ArrowUp: () => (list.hidden ? open(() => mark(last())) : mark(active <= 0 ? last() : active - 1)),
    Enter: () => {
      if (!list.hidden && options.length) take(options[Math.max(active, 0)]);
      else if (input.value.trim()) open(() => options.length && take(options[0]));
    },
    Escape: () => {
      if (list.hidden && !found.textContent) input.value = "";
      close();
    },
  };
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Backspace" && !event.repeat && input.value === "") back?.();
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key](event);
  });
  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(open, PAUSE_MS);
  });
  input.addEventListener("click", () => list.hidden && open());
  input.addEventListener("blur", close);
  list.addEventListener("mousedown", (event) => event.preventDefault()); // the field keeps the focus

  return { element, input };
}
