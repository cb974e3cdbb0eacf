// Shows a request as a curl command, and its response.

import { key } from "./api.js";
import { h } from "./dom.js";

/** Collapsible section with the curl command and the response as JSON. */
export function requestExample(route, body, response) {
  const url = new URL(`v1/${route}`, document.baseURI);
  const json = JSON.stringify(body).replaceAll("'", "'\\''");
  const lines = [`curl ${url.origin}${url.pathname}`, "-H 'Content-Type: application/json'", `-d '${json}'`];
  if (key.get()) lines.splice(2, 0, "-H \"Authorization: Bearer $KEY\"");
  return h("details", { class: "request-example" }, h("summary", {}, "API request"),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Request" }, lines.join(" \\\n  ")),
    h("pre", { tabindex: 0, role: "region", "aria-label": "Response" }, JSON.stringify(response, null, 1)));
}
