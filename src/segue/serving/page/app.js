// The page: takes over the address, and starts its parts.

import { wants } from "./api.js";
import * as compare from "./compare.js";
import { keyed } from "./dialog.js";
import { tell } from "./element.js";
import { list } from "./models.js";
import * as next from "./next.js";
import * as operate from "./operate.js";
import { reload } from "./person.js";
import * as rules from "./rules.js";
import { follow } from "./state.js";
import * as tabs from "./tabs.js";
import * as travel from "./travel.js";
import * as who from "./who.js";

const understood = follow();
for (const part of [tabs, who, rules, next, travel, compare, operate]) part.begin();
if (!understood) tell("Part of the address could not be read and was left out.");
addEventListener("popstate", follow);
addEventListener("hashchange", follow);

const askForKey = keyed(() => location.reload());
wants.addEventListener("key", askForKey);

const offline = document.getElementById("offline");
wants.addEventListener("offline", () => {
  offline.textContent = "The service cannot be reached. What is shown is the last that was heard of it.";
  offline.hidden = false;
});
wants.addEventListener("online", () => (offline.hidden = true));
addEventListener("offline", () => wants.dispatchEvent(new Event("offline")));
addEventListener("online", () => {
  list();
  reload();
  if (!document.getElementById("next").hidden) next.ask();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment of the address holds the question
  document.querySelector("[role=tabpanel]:not([hidden])").focus();
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme ?? "";
theme.addEventListener("change", () => {
  document.documentElement.dataset.theme = theme.value;
  try {
    localStorage.setItem("segue.theme", theme.value);
  } catch {
    tell("The browser does not let the page remember this.");
  }
});

list();
