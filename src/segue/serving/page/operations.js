// View "Operations": live statistics and models.

import { ApiError, call, path } from "./api.js";
import { lineChart } from "./chart.js";
import { confirm } from "./dialog.js";
import { announce, bar, h } from "./dom.js";
import { formatCount, formatDuration, formatMs, formatNumber } from "./format.js";
import { errorMessage, loadingMessage } from "./message.js";
import { modelList, onModelsChange, reloadModels } from "./models.js";
import { onStateChange, state } from "./state.js";

const POLL_MS = 1000;
const MAX_SAMPLES = 120;
const PREFERRED_METRICS = ["recall@10", "ndcg@10", "mrr@10"]; // shown first
const TWO_COLUMNS_PX = 800; // width from which charts are side by side

const panel = document.getElementById("operations");
const statistics = h("div", {}, loadingMessage("Loading statistics…"));
const modelTable = h("div", {}, loadingMessage("Loading models…"));
const modelError = h("div", {});
const pause = h("button", { type: "button", class: "button", "aria-pressed": "false", on: { click: togglePause } }, "Pause");
let samples = [], timer, pending, isPaused = false;

export function start() {
  panel.append(
    h("div", { class: "spread head" }, h("h2", {}, "Live statistics"), pause), statistics,
    h("div", { class: "spread head models-head" }, h("h2", {}, "Models"), h("button", { type: "button", class: "button", on: { click: reloadModels } }, "Reload")), modelError, modelTable);
  onStateChange((changed) => changed.has("view") && restart());
  document.addEventListener("visibilitychange", restart);
  onModelsChange(renderModels);
  restart();
}

/** Poll every second while the view is visible. */
function restart() {
  clearTimeout(timer);
  pending?.abort();
  if (state.view === "operations" && !document.hidden && !isPaused) poll();
}

function togglePause() {
  isPaused = !isPaused;
  pause.setAttribute("aria-pressed", String(isPaused));
  restart();
}

async function poll() {
  const { signal } = (pending = new AbortController());
  try {
    const stats = await call("GET", "stats", { signal });
    if (signal.aborted) return;
    samples = [...samples, stats].slice(-MAX_SAMPLES);
    renderStatistics(stats);
  } catch (error) {
    if (signal.aborted) return;
    samples = [...samples, {}].slice(-MAX_SAMPLES);
    if (!(error instanceof ApiError)) throw error;
    const isShown = statistics.querySelector(".error")?.dataset.kind === error.kind; // do not repeat it every second
    if (!isShown) statistics.replaceChildren(errorMessage(error, restart));
    if (error.status === 401 || error.status === 403) return;
  }
  timer = setTimeout(poll, POLL_MS);
}

function renderStatistics(stats) {
  const figures = [
    ["Requests / s", formatNumber(stats.requests_per_second)], ["p50 latency", formatMs(stats.p50_ms)], ["p95 latency", formatMs(stats.p95_ms)], ["p99 latency", formatMs(stats.p99_ms)],
    ["In flight", formatCount(stats.in_flight)], ["Queued", formatCount(stats.queued)], ["Errors", formatCount(stats.errors)], ["Uptime", formatDuration(stats.uptime_seconds)],
  ];
  const history = (name) => samples.map((sample) => sample[name] ?? NaN);
  const room = statistics.clientWidth, width = room < TWO_COLUMNS_PX ? room - 32 : (room - 84) / 2;
  const frame = { width, length: MAX_SAMPLES, seconds: (MAX_SAMPLES * POLL_MS) / 1000 };
  const sources = Object.entries(stats.sources), all = Math.max(1, sources.reduce((sum, [, n]) => sum + n, 0));
  statistics.replaceChildren(
    h("dl", { class: "figures" }, figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    h("div", { class: "charts" },
      h("figure", {}, h("figcaption", {}, "Latency in milliseconds"), lineChart([
        { label: "p50", mark: "c1", values: history("p50_ms") }, { label: "p95", mark: "c3", values: history("p95_ms") }, { label: "p99", mark: "c2", values: history("p99_ms") },
      ], { ...frame, text: `Latency: p50 ${formatMs(stats.p50_ms)}, p95 ${formatMs(stats.p95_ms)}, p99 ${formatMs(stats.p99_ms)}` })),
      h("figure", {}, h("figcaption", {}, "Requests per second"), lineChart([{ label: "", mark: "c1", values: history("requests_per_second") }],
        { ...frame, text: `${formatNumber(stats.requests_per_second)} requests per second` }))),
    h("h3", {}, "Responses by source"),
    sources.length ? h("ul", { class: "sources" }, sources.map(([source, n]) => h("li", {}, h("span", {}, source), bar(n / all), h("span", { class: "n" }, formatCount(n)))))
      : h("p", { class: "muted" }, "No requests yet."),
  );
}

function renderModels() {
  const { models, previous, error } = modelList();
  if (error) return modelTable.replaceChildren(errorMessage(error, reloadModels));
  const isPreferred = (metric) => PREFERRED_METRICS.includes(metric);
  const metrics = [...new Set(models.flatMap((model) => Object.keys(model.metrics)))].sort((a, b) => isPreferred(b) - isPreferred(a)).slice(0, PREFERRED_METRICS.length);
  const head = ["Model", "", "Version", "Engine", "Items", "Users", ...metrics, "Golden queries", "Trained"];
  const rows = models.map((model) => h("tr", { class: model.active ? "highlighted" : null },
    h("th", { scope: "row" }, model.name, model.key === model.name ? null : h("span", { class: "note" }, model.key)),
    h("td", {}, model.active ? h("span", { class: "tag hit" }, "active") : h("button", { type: "button", class: "button", on: { click: () => activate(model.name) } }, "Activate", h("span", { class: "visually-hidden" }, ` ${model.name}`))),
    h("td", {}, h("code", {}, model.version)), h("td", {}, model.engine), ...[model.items, model.users].map((n) => h("td", { class: "n" }, formatCount(n))),
    ...metrics.map((metric) => h("td", { class: "n" }, metric in model.metrics ? model.metrics[metric].toFixed(4) : "–")),
    h("td", { class: "n" }, formatCount(model.golden_queries)), h("td", {}, [model.trained_at?.slice(0, 10) ?? "–", model.data].filter(Boolean).join(", "))));
  modelTable.replaceChildren(
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Models" }, h("table", { "aria-label": "Models" },
      h("thead", {}, h("tr", {}, head.map((text, index) => h("th", { scope: "col", class: index > 3 && index < head.length - 1 ? "n" : null }, text || h("span", { class: "visually-hidden" }, "State"))))),
      h("tbody", {}, rows))),
    h("div", { class: "row" }, previous === null ? h("p", { class: "muted" }, "There is no previously active model.")
      : h("button", { type: "button", class: "button", on: { click: () => rollBack(previous) } }, `Roll back to ${previous}`)));
}

const activate = (name) => switchModel(`Activate ${name}?`, "New requests use this model; running requests finish with the current one.", "Activate", path("models", name, "activate"), name);
const rollBack = (name) => switchModel(`Roll back to ${name}?`, "New requests use the previously active model.", "Roll back", "models/rollback", name);

async function switchModel(title, text, action, route, name) {
  if (!(await confirm(title, text, action))) return;
  try {
    await call("POST", route);
    modelError.replaceChildren();
    announce(`${name} is active.`);
  } catch (error) {
    modelError.replaceChildren(errorMessage(error));
  }
  await reloadModels();
  panel.focus();
}
