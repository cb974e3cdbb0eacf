// Entry point: restores the state from the URL and starts all parts of the page.

import { connection } from "./api.js";
import * as compare from "./compare.js";
import { setUpKeyDialog } from "./dialog.js";
import { announce } from "./dom.js";
import { modelList, onModelsChange, reloadModels } from "./models.js";
import * as operations from "./operations.js";
import * as recommend from "./recommend.js";
import * as replay from "./replay.js";
import * as rules from "./rules.js";
import { restore } from "./state.js";
import * as tabs from "./tabs.js";
import { reloadUser } from "./user.js";
import * as userPanel from "./user_panel.js";

const isValid = restore();
for (const part of [tabs, userPanel, rules, recommend, replay, compare, operations]) part.start();
if (!isValid) announce("Part of the URL is invalid and was ignored.");
addEventListener("popstate", restore);
addEventListener("hashchange", restore);

const showKeyDialog = setUpKeyDialog(() => location.reload());
connection.addEventListener("key", showKeyDialog);

const missingScope = document.getElementById("missing-scope");
onModelsChange(() => {
  const isMissing = modelList().error?.kind === "forbidden";
  missingScope.textContent = isMissing ? "This page needs an API key with the scope read. With this key it can only show recommendations and items." : "";
  missingScope.hidden = !isMissing;
});

const offline = document.getElementById("offline");
connection.addEventListener("offline", () => {
  offline.textContent = "The service cannot be reached. The page shows the last known state.";
  offline.hidden = false;
});
connection.addEventListener("online", () => (offline.hidden = true));
addEventListener("offline", () => connection.dispatchEvent(new Event("offline")));
addEventListener("online", () => {
  reloadModels();
  reloadUser();
  if (!document.getElementById("recommend").hidden) recommend.load();
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the URL fragment holds the query
  document.querySelector("[role=tabpanel]:not([hidden])").focus();
});

const theme = document.getElementById("theme");
theme.value = document.documentElement.dataset.theme ?? "";
theme.addEventListener("change", () => {
  document.documentElement.dataset.theme = theme.value;
  try {
    localStorage.setItem("segue.theme", theme.value);
  } catch {
    announce("The browser does not allow this setting to be stored.");
  }
});

reloadModels();
