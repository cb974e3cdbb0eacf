// Views as tabs: pattern "Tabs with Automatic Activation" of the ARIA Authoring Practices.

import { change, onStateChange, state } from "./state.js";

const tabs = [...document.querySelectorAll("[role=tab]")];

export function start() {
  for (const tab of tabs) tab.addEventListener("click", () => change({ view: tab.dataset.view }));
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const from = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: (from + 1) % tabs.length, ArrowLeft: (from + tabs.length - 1) % tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (from < 0 || to === undefined) return;
    event.preventDefault();
    tabs[to].focus();
    change({ view: tabs[to].dataset.view });
  });
  onStateChange((changed) => changed.has("view") && render());
  render();
}

function render() {
  for (const tab of tabs) {
    const isSelected = tab.dataset.view === state.view;
    tab.setAttribute("aria-selected", String(isSelected));
    tab.tabIndex = isSelected ? 0 : -1;
    document.getElementById(tab.dataset.view).hidden = !isSelected;
    if (isSelected) document.title = `${tab.textContent} · Segue`;
  }
  document.getElementById("query").hidden = state.view === "operations";
  document.getElementById("main").classList.toggle("full-width", state.view === "operations");
}
