// The views as tabs, after the pattern "Tabs with Automatic Activation" of the ARIA Authoring Practices.

import { change, state, watch } from "./state.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

export function begin() {
  for (const tab of tabs) tab.addEventListener("click", () => change({ view: tab.dataset.view }));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: (at + 1) % tabs.length, ArrowLeft: (at + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    change({ view: tabs[to].dataset.view });
  });
  watch((changed) => changed.has("view") && show());
  show();
}

function show() {
  for (const tab of tabs) {
    const chosen = tab.dataset.view === state.view;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    document.getElementById(tab.dataset.view).hidden = !chosen;
    if (chosen) document.title = `${tab.textContent} · Segue`;
  }
  document.getElementById("question").hidden = state.view === "operate";
  document.getElementById("main").classList.toggle("alone", state.view === "operate");
}
