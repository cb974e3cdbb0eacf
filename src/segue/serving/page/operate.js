// The view "Operate": what the service does at this moment, and which model answers.

import { Fault, call, path } from "./api.js";
import { lines } from "./chart.js";
import { confirmed } from "./dialog.js";
import { bar, h, tell } from "./element.js";
import { faulty, loading } from "./message.js";
import { list, models, published } from "./models.js";
import { about, count, lasting, ms } from "./number.js";
import { state, watch } from "./state.js";

const EVERY_MS = 1000;
const SAMPLES = 120;
const FIRST = ["recall@10", "ndcg@10", "mrr@10"]; // metrics that are shown where there are many
const WIDE = 800; // pixels from which the charts stand side by side

const panel = document.getElementById("operate");
const figures = h("div", {}, loading("Looking…"));
const shelf = h("div", {}, loading("Listing the models…"));
const trouble = h("div", {});
const pause = h("button", { type: "button", class: "button", "aria-pressed": "false", on: { click: toggle } }, "Pause");
let samples = [], timer, asked, paused = false;

export function begin() {
  panel.append(
    h("div", { class: "spread head" }, h("h2", {}, "At this moment"), pause), figures,
    h("div", { class: "spread head shelf" }, h("h2", {}, "Models"), h("button", { type: "button", class: "button", on: { click: list } }, "Look again")), trouble, shelf);
  watch((changed) => changed.has("view") && run());
  document.addEventListener("visibilitychange", run);
  published(draw);
  run();
}

/** Look every second while somebody can see it. */
function run() {
  clearTimeout(timer);
  asked?.abort();
  if (state.view === "operate" && !document.hidden && !paused) look();
}

function toggle() {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  run();
}

async function look() {
  const { signal } = (asked = new AbortController());
  try {
    const live = await call("GET", "live", { signal });
    if (signal.aborted) return;
    samples = [...samples, live].slice(-SAMPLES);
    show(live);
  } catch (error) {
    if (signal.aborted) return;
    samples = [...samples, {}].slice(-SAMPLES);
    if (!(error instanceof Fault)) throw error;
    const shown = figures.querySelector(".fault")?.dataset.kind === error.kind; // told once, not every second
    if (!shown) figures.replaceChildren(faulty(error, run));
    if (error.status === 401 || error.status === 403) return;
  }
  timer = setTimeout(look, EVERY_MS);
}

function show(live) {
  const told = [
    ["Requests / s", about(live.requests_per_second)], ["Half within", ms(live.p50_ms)], ["95 % within", ms(live.p95_ms)], ["99 % within", ms(live.p99_ms)],
    ["In work", count(live.in_flight)], ["Waiting", count(live.waiting)], ["Failed", count(live.errors)], ["Up for", lasting(live.uptime_seconds)],
  ];
  const of = (name) => samples.map((sample) => sample[name] ?? NaN);
  const room = figures.clientWidth, width = room < WIDE ? room - 32 : (room - 84) / 2;
  const frame = { width, length: SAMPLES, seconds: (SAMPLES * EVERY_MS) / 1000 };
  const steps = Object.entries(live.steps), all = Math.max(1, steps.reduce((sum, [, n]) => sum + n, 0));
  figures.replaceChildren(
    h("dl", { class: "figures" }, told.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("div", { class: "charts" },
      h("figure", {}, h("figcaption", {}, "Milliseconds to an answer"), lines([
        { label: "p50", mark: "c1", values: of("p50_ms") }, { label: "p95", mark: "c3", values: of("p95_ms") }, { label: "p99", mark: "c2", values: of("p99_ms") },
      ], { ...frame, text: `Half of the answers within ${ms(live.p50_ms)}, 95 % within ${ms(live.p95_ms)}, 99 % within ${ms(live.p99_ms)}` })),
      h("figure", {}, h("figcaption", {}, "Requests a second"), lines([{ label: "", mark: "c1", values: of("requests_per_second") }],
        { ...frame, text: `${about(live.requests_per_second)} requests a second` }))),
    h("h3", {}, "Who answered"),
    steps.length ? h("ul", { class: "steps" }, steps.map(([step, n]) => h("li", {}, h("span", {}, step), bar(n / all), h("span", { class: "n" }, count(n)))))
      : h("p", { class: "soft" }, "No question yet."),
  );
}

function draw() {
  const { models: all, previous, fault } = models();
  if (fault) return shelf.replaceChildren(faulty(fault, list));
  const metrics = [...new Set(all.flatMap((one) => Object.keys(one.metrics)))].sort((a, b) => FIRST.includes(b) - FIRST.includes(a)).slice(0, FIRST.length);
  const head = ["Model", "", "Version", "Engine", "Items", "Users", ...metrics, "Golden", "Trained"];
  const rows = all.map((one) => h("tr", { class: one.active ? "marked" : null },
    h("th", { scope: "row" }, one.name, one.key === one.name ? null : h("span", { class: "note" }, one.key)),
    h("td", {}, one.active ? h("span", { class: "tag hit" }, "active") : h("button", { type: "button", class: "button", on: { click: () => activate(one.name) } }, "Activate", h("span", { class: "unseen" }, ` ${one.name}`))),
    h("td", {}, h("code", {}, one.version)), h("td", {}, one.engine), ...[one.items, one.users].map((n) => h("td", { class: "n" }, count(n))),
    ...metrics.map((metric) => h("td", { class: "n" }, metric in one.metrics ? one.metrics[metric].toFixed(4) : "–")),
    h("td", { class: "n" }, count(one.golden)), h("td", {}, [one.trained?.slice(0, 10) ?? "–", one.data].filter(Boolean).join(", "))));
  shelf.replaceChildren(
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Models" }, h("table", { "aria-label": "Models" },
      h("thead", {}, h("tr", {}, head.map((text, index) => h("th", { scope: "col", class: index > 3 && index < head.length - 1 ? "n" : null }, text || h("span", { class: "unseen" }, "State"))))),
      h("tbody", {}, rows))),
    h("div", { class: "row" }, previous === null ? h("p", { class: "soft" }, "No other model was active before this one.")
      : h("button", { type: "button", class: "button", on: { click: () => rollback(previous) } }, `Roll back to ${previous}`)));
}

const activate = (name) => alter(`Let ${name} answer?`, "It answers from the next question on; requests that run end with the model they began with.", "Activate", path("models", name, "activate"), name);
const rollback = (name) => alter(`Roll back to ${name}?`, "It was active before, and answers from the next question on.", "Roll back", "models/rollback", name);

async function alter(title, text, yes, route, name) {
  if (!(await confirmed(title, text, yes))) return;
  try {
    await call("POST", route);
    trouble.replaceChildren();
    tell(`${name} answers from now on.`);
  } catch (error) {
    trouble.replaceChildren(faulty(error));
  }
  await list();
  panel.focus();
}
