// Lines over the last moments, drawn by hand.

import { svg } from "./element.js";

const HEIGHT = 180, LEFT = 44, RIGHT = 40, TOP = 12, BOTTOM = 22;

/**
 * `series`: `{label, mark, values}`, the newest value last, NaN where there is none; all as long as `length` at most.
 * `width` is that of the drawing in pixels, `text` tells what is seen.
 */
export function lines(series, { length, seconds, width, text }) {
  const top = rounded(Math.max(0, ...series.flatMap(({ values }) => values.filter(Number.isFinite))) || 1);
  const x = (back) => width - RIGHT - (back * (width - LEFT - RIGHT)) / (length - 1);
  const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
  const ticks = [0, top / 2, top];
  const labels = apart(series.map(({ label, mark, values }) => ({ label, mark, at: y(values.at(-1)) })).filter(({ at }) => Number.isFinite(at)));
  return svg(
    "svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": text },
    ticks.map((tick) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "axis", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, `${Number(tick.toPrecision(3))}`),
    ]).flat(),
    svg("text", { class: "axis", x: LEFT, y: HEIGHT - 5 }, `${Math.round(seconds / 60)} min ago`),
    svg("text", { class: "axis", x: width - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, "now"),
    series.map(({ mark, values }) => svg("path", { class: `line ${mark}`, d: drawn(values.map((value, index) => [x(values.length - 1 - index), y(value)])) })),
    labels.map(({ label, mark, at }) => svg("text", { class: `end ${mark}`, x: width - RIGHT + 5, y: at + 4 }, label)),
  );
}

function drawn(points) {
  let pen = "M";
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) {
      pen = "M";
      return "";
    }
    const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
    return step;
  }).join("");
}

/** The next number whose half is round too. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

/** Labels so far apart that each can be read. */
function apart(labels) {
  const sorted = labels.sort((one, other) => other.at - one.at);
  sorted.forEach((label, index) => {
    if (index) label.at = Math.min(label.at, sorted[index - 1].at - 12);
  });
  return sorted;
}
