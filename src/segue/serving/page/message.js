// What is shown where there is nothing to show: loading, empty, faults.

import { Fault } from "./api.js";
import { h } from "./element.js";

export const loading = (text = "Asking…") => h("p", { class: "message", role: "status" }, text);

export const empty = (text, ...buttons) => h("div", { class: "message" }, h("p", {}, text), buttons.length ? h("div", { class: "row" }, buttons) : null);

const WORDS = {
  offline: "Not reached",
  slow: "No answer in time",
  strange: "Not understood",
  invalid: "Refused as it is",
  unauthorised: "A key is asked for",
  forbidden: "Not allowed",
  missing: "Not there",
  too_large: "Too large",
  too_many: "Too many requests",
  busy: "The service is busy",
};

/** What went wrong, with the fields, the request's id, and a way to try again. */
export function faulty(fault, again) {
  if (!(fault instanceof Fault)) throw fault; // a fault of this page itself: to the console
  const fields = Object.entries(fault.fields);
  const wait = fault.wait ? ` Again in ${fault.wait} s.` : "";
  return h(
    "div", { class: "message fault", role: "alert", "data-kind": fault.kind },
    h("h3", {}, WORDS[fault.kind] ?? "The service failed"),
    h("p", {}, (fault.message || "It gave no reason.") + wait),
    fault.kind === "forbidden" ? h("p", {}, "The key does not have the scope that this needs; an operator can give out another.") : null,
    fields.length ? h("dl", {}, fields.map(([name, why]) => [h("dt", {}, name), h("dd", {}, why)])) : null,
    fault.requestId ? h("p", { class: "soft" }, "Request ", h("code", {}, fault.requestId)) : null,
    again ? h("button", { type: "button", class: "button", on: { click: again } }, "Try again") : null,
  );
}
