// A question as a program would send it, and what came back.

import { key } from "./api.js";
import { h } from "./element.js";

/** A fold with the request for a shell, and the answer as JSON. */
export function asRequest(route, body, answer) {
  const url = new URL(`v1/${route}`, document.baseURI);
  const json = JSON.stringify(body).replaceAll("'", "'\\''");
  const lines = [`curl ${url.origin}${url.pathname}`, "-H 'Content-Type: application/json'", `-d '${json}'`];
  if (key.get()) lines.splice(2, 0, "-H \"Authorization: Bearer $KEY\"");
  return h("details", { class: "request" }, h("summary", {}, "The same as a request"),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Request" }, lines.join(" \\\n  ")),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Answer" }, JSON.stringify(answer, null, 1)));
}
