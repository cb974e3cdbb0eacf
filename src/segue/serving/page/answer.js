// An answer: the ranked items, who answered, and what the rules did.

import { bar, called, h, unseen } from "./element.js";
import { and, count, percent, score, sentence } from "./number.js";

const STEPS = { model: "the model", fallback: "a cheaper model", neighbours: "neighbours of the history", popular: "what is popular" };
const RULES = {
  history: "had before", allow: "not among those allowed", deny: "denied", where: "not meeting a condition", most: "passed over by a quota",
};

/**
 * Ranked items as a list. `tagged(item)` gives what stands behind a title, `beside(item)` what stands under it, `end(item)`
 * what stands at the end, `there(item)` the place in another list; `marks` are ids of items to be set off.
 */
export function ranking(items, { label, tagged = () => null, beside = () => null, end = null, there = null, marks = new Set() }) {
  const probable = items.some((item) => Number.isFinite(item.probability));
  const most = Math.max(...items.map((item) => item.probability ?? 0), Number.MIN_VALUE);
  const kind = ["ranked", probable && "probable", there && "compared", end && "ended"].filter(Boolean).join(" ");
  const row = (item, index) => h(
    "li", { "data-id": item.id, class: marks.has(item.id) ? "marked" : null },
    h("span", { class: "place", "aria-hidden": "true" }, count(index + 1)),
    h("div", { class: "what" }, h("span", { class: "name" }, called(item), item.pinned ? h("span", { class: "tag" }, "pinned") : null, tagged(item)), beside(item)),
    there ? h("span", { class: "there" }, there(item) ? [unseen("there at place "), count(there(item))] : unseen("not there")) : null,
    probable ? h("span", { class: "probability" }, bar((item.probability ?? 0) / most), unseen("probability "), percent(item.probability ?? 0)) : null,
    h("span", { class: "score" }, h("span", { class: "label" }, "score "), score(item.score)),
    end ? h("div", { class: "end" }, end(item)) : null,
  );
  return h("div", { class: kind },
    h("div", { class: "legend", "aria-hidden": "true" }, h("span", {}), h("span", {}),
      there ? h("span", { class: "there" }, "there") : null, probable ? h("span", { class: "probability" }, "probability") : null, h("span", { class: "score" }, "score"), end ? h("span", {}) : null),
    h("ol", { class: "ranking", "aria-label": label }, items.map(row)));
}

/** Which model answered, and in which way. */
export function answered({ model, step }, took = null) {
  return h("p", { class: "by" }, "By ", h("strong", {}, model.name),
    ` · ${[model.key === model.name ? null : model.key, `version ${model.version}`, model.engine, took === null ? null : `${took} ms`].filter(Boolean).join(" · ")}`,
    step === "model" ? null : h("span", { class: "tag mind" }, `answered by ${STEPS[step] ?? step}`));
}

/** What else is to be known: rules, what was not known, notes. */
export function told(answer) {
  const removed = Object.entries(answer.removed).filter(([, n]) => n);
  const { user, items, features } = answer.unknown;
  const lines = [
    removed.length ? h("p", {}, `Kept out: ${and(removed.map(([rule, n]) => `${count(n)} ${RULES[rule] ?? `by the rule “${rule}”`}`))}.`) : h("p", {}, "No item was kept out."),
    user ? h("p", {}, "This user was not there in training.") : null,
    items.length ? h("p", {}, "Not in the catalogue: ", codes(items)) : null,
    features.length ? h("p", {}, "Features that nobody knows: ", codes(features)) : null,
    ...answer.notes.map((note) => h("p", {}, h("bdi", {}, sentence(note)))),
  ];
  const ladder = h("p", {}, "Answered by ", Object.entries(STEPS).map(([step, text], place) => [
    place ? h("span", { "aria-hidden": "true" }, " › ") : null,
    step === answer.step ? h("strong", { "aria-current": "step" }, text) : h("span", { class: "soft" }, text),
  ]).flat());
  return h("section", { class: "told", "aria-label": "What the rules did" }, h("h3", {}, "What the rules did"), lines, ladder);
}

const codes = (ids) => ids.slice(0, 20).map((id, place) => [place ? ", " : null, h("code", { dir: "auto" }, id)]).flat().concat(ids.length > 20 ? [` and ${ids.length - 20} more`] : []);
