// Formats numbers, times and lists.

const integers = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const significant = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3 });
const dates = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" });
const lists = new Intl.ListFormat("en-GB", { type: "conjunction" });

export const formatCount = (n) => (n === null ? "–" : integers.format(n));
export const formatQuantity = (n, singular, plural = `${singular}s`) => `${formatCount(n)} ${n === 1 ? singular : plural}`;
export const formatNumber = (x) => (Number.isFinite(x) ? significant.format(x) : "–");
export const formatList = (words) => lists.format(words);

/** Score, with the same number of decimals within a list. */
export const formatScore = (x) => (Math.abs(x) >= 1000 ? formatNumber(x) : x.toFixed(3));

/** Probability as a percentage. */
export function formatPercent(p) {
  if (p > 0 && p < 0.0001) return "< 0.01 %";
  return `${(100 * p).toFixed(p >= 0.1 ? 1 : 2)} %`;
}

/** Signed number, with decimals chosen for the largest magnitude among its kind. */
export const formatSigned = (x, largest) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(largest >= 1 ? 2 : largest >= 0.01 ? 3 : 5)}`;

/** Milliseconds, or a dash without a measurement. */
export const formatMs = (x) => (Number.isFinite(x) ? `${x < 10 ? x.toFixed(1) : formatCount(x)} ms` : "–");

/** Date of a Unix time in seconds; empty for values that are not dates. */
export function formatDate(seconds) {
  return seconds === null || seconds === undefined || Math.abs(seconds) < 1e8 || Math.abs(seconds) > 8e12
    ? "" : dates.format(new Date(1000 * seconds));
}

/** Text as a sentence with a capital letter and a full stop. */
export const toSentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?…]$/.test(text) ? "" : ".");

/** Duration in its two largest units. */
export function formatDuration(seconds) {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(0, units.findIndex(([size]) => seconds >= size));
  const [[size, unit], next] = seconds < 1 ? [[1, "s"]] : [units[first], units[first + 1]];
  const rest = next ? Math.floor((seconds % size) / next[0]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${rest ? ` ${rest} ${next[1]}` : ""}`;
}

/** Value of a feature: text, number, boolean, or a list of them. */
export function formatValue(value) {
  if (Array.isArray(value)) return value.map(formatValue).join(", ");
  return value === true ? "yes" : value === false ? "no" : value === null || value === undefined ? "–" : String(value);
}
