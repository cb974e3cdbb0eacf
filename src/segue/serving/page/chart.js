// Line charts of recent measurements.

import { svg } from "./dom.js";

const HEIGHT = 180, LEFT = 44, RIGHT = 40, TOP = 12, BOTTOM = 22;

/**
 * `series`: `{label, mark, values}` with the newest value last and NaN for missing values, at most `length` values each.
 * `width` is the width in pixels, `text` the description for screen readers.
 */
export function lineChart(series, { length, seconds, width, text }) {
  const top = roundUp(Math.max(0, ...series.flatMap(({ values }) => values.filter(Number.isFinite))) || 1);
  const x = (age) => width - RIGHT - (age * (width - LEFT - RIGHT)) / (length - 1);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const ticks = [0, top / 2, top];
  const labels = spreadLabels(series.map(({ label, mark, values }) => ({ label, mark, at: y(values.at(-1)) })).filter(({ at }) => Number.isFinite(at)));
  return svg(
    "svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": text },
    ticks.map((tick) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "axis", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, `${Number(tick.toPrecision(3))}`),
    ]).flat(),
    svg("text", { class: "axis", x: LEFT, y: HEIGHT - 5 }, `${Math.round(seconds / 60)} min ago`),
    svg("text", { class: "axis", x: width - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, "now"),
    series.map(({ mark, values }) => svg("path", { class: `line ${mark}`, d: toPath(values.map((value, index) => [x(values.length - 1 - index), y(value)])) })),
    labels.map(({ label, mark, at }) => svg("text", { class: `end ${mark}`, x: width - RIGHT + 5, y: at + 4 }, label)),
  );
}

function toPath(points) {
  let command = "M";
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) {
      command = "M";
      return "";
    }
    const segment = `${command}${x.toFixed(1)} ${y.toFixed(1)}`;
    command = "L";
    return segment;
  }).join("");
}

/** Smallest round number that is not below `value` and whose half is round too. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

/** Move labels apart so that they do not overlap. */
function spreadLabels(labels) {
  const sorted = labels.sort((one, other) => other.at - one.at);
  sorted.forEach((label, index) => {
    if (index) label.at = Math.min(label.at, sorted[index - 1].at - 12);
  });
  return sorted;
}
