// Placeholders for content that is loading, empty or failed.

import { ApiError } from "./api.js";
import { h } from "./dom.js";

export const loadingMessage = (text = "Loading…") => h("p", { class: "message", role: "status" }, text);

export const emptyMessage = (text, ...buttons) => h("div", { class: "message" }, h("p", {}, text), buttons.length ? h("div", { class: "row" }, buttons) : null);

const TITLES = {
  offline: "Service unreachable",
  timeout: "Request timeout",
  request_timeout: "Request timeout",
  unexpected: "Unexpected response",
  invalid: "Invalid request",
  unauthorized: "API key required",
  forbidden: "Permission denied",
  not_found: "Not found",
  conflict: "Conflict",
  too_large: "Request too large",
  rate_limited: "Rate limit exceeded",
  overloaded: "Service overloaded",
};

/** Error with its fields, the request id, and a button to retry. */
export function errorMessage(error, retry) {
  if (!(error instanceof ApiError)) throw error; // a bug in this page: report it to the console
  const fields = Object.entries(error.fields);
  const wait = error.retryAfter ? ` Retry in ${error.retryAfter} s.` : "";
  return h(
    "div", { class: "message error", role: "alert", "data-kind": error.kind },
    h("h3", {}, TITLES[error.kind] ?? "Internal server error"),
    h("p", {}, (error.message || "The service gave no reason.") + wait),
    error.kind === "forbidden" ? h("p", {}, "The API key lacks the required scope; ask an operator for another key.") : null,
    fields.length ? h("dl", {}, fields.map(([name, reason]) => [h("dt", {}, name), h("dd", {}, reason)])) : null,
    error.requestId ? h("p", { class: "muted" }, "Request id ", h("code", {}, error.requestId)) : null,
    retry ? h("button", { type: "button", class: "button", on: { click: retry } }, "Try again") : null,
  );
}
