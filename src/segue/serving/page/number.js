// Numbers, times and lists as people read them.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const three = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const listed = new Intl.ListFormat("en-GB", { type: "conjunction" });

export const count = (n) => (n === null ? "–" : whole.format(n));
export const counted = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
export const about = (x) => (Number.isFinite(x) ? three.format(x) : "–");
export const and = (words) => listed.format(words);

/** A score: what is comparable within one answer, so decimals alike. */
export const score = (x) => (Math.abs(x) >= 1000 ? about(x) : x.toFixed(3));

/** A share of 1 in per cent. */
export function percent(p) {
  if (p > 0 && p < 0.0001) return "< 0.01 %";
  return `${(100 * p).toFixed(p >= 0.1 ? 1 : 2)} %`;
}

/** A change with its sign, with as many decimals as the largest of its kind asks for. */
export const signed = (x, most) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(most >= 1 ? 2 : most >= 0.01 ? 3 : 5)}`;

/** Milliseconds; none where nothing was measured. */
export const ms = (x) => (Number.isFinite(x) ? `${x < 10 ? x.toFixed(1) : count(x)} ms` : "–");

/** The day of a time in seconds since 1970; nothing for clocks that are no dates. */
export function date(seconds) {
  return seconds === null || seconds === undefined || Math.abs(seconds) < 1e8 || Math.abs(seconds) > 8e12
    ? "" : day.format(new Date(1000 * seconds));
}

/** A text as a sentence. */
export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/** A length of time, in its two largest units. */
export function lasting(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  const [[size, unit], next] = seconds < 1 ? [[1, "s"]] : [parts[first], parts[first + 1]];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** A value of a feature: a text, a number, a truth, or a list of them. */
export function value(v) {
  if (Array.isArray(v)) return v.map(value).join(", ");
  return v === true ? "yes" : v === false ? "no" : v === null || v === undefined ? "–" : String(v);
}
