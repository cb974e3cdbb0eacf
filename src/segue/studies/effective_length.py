"""Effective length: how many of the newest events models use.

It is measured by what models lose without the older events, and by the weights of events.

Shapes: N queries, T events of all histories, L events by distance from the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, DataSchema, Events, Mask, Queries, Scores
from segue.evaluation.bootstrap import estimate
from segue.evaluation.evaluate import evaluate
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.studied_models import StudiedModel
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_name, events_for_share, first_targets, shared_share

__all__ = [
    "ACCEPTS_RUNS",
    "DEFAULT",
    "FULL",
    "METHOD",
    "QUESTION",
    "REQUIRES",
    "ChangedHistories",
    "answer",
    "figures",
    "replace_older",
    "run",
    "shuffle_older",
    "tables",
]

QUESTION = "How many of the newest events of a history do sequence models use?"
METHOD = """
The values n are numbers of newest events. For each n, the model answers the test queries three times: with the newest
n events only (truncated), with the items of the older events in random order (shuffled), and with older items that are
drawn as often as they occur in training (replaced). Each time NDCG@10 is compared with that of the unchanged
histories, query by query, with a 95 % bootstrap interval of the difference over queries; the items of the true history
are excluded from the ranking every time. The effective length is the smallest n from which on no truncated NDCG@10 is
significantly lower. It depends on the number of queries: small losses remain undetected, and the lower end of the
interval says how large they may be. The share of the list that stays is that of the ten items that were recommended
with the unchanged history. Recurrent models read the whole history, attention models the newest `max_length` events; a
truncated history begins at the first position of the model. The weights are measured on test queries with histories
that fill the model's length, or the length that a tenth of the users reach, and cut to it. By gates, the weight of an
event in an LSTM, mLSTM or sLSTM is its input gate times the forget gates of all later events, as a share of the sum,
the mean over units and layers; by attention, it is that of the last position, the mean over heads and layers. Both
describe single layers: the inputs of upper layers already mix events. The gradient is the norm of that of the true
item's score with respect to the vector of the event, through all layers. All are shares of the sum over events. With
several seeds, the effective length is the longest of theirs.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=(1, 2, 5, 10, 20, 50), settings=("epochs=3",))
FULL = Grid(
    values=(1, 2, 3, 5, 10, 20, 30, 50, 100, 200),
    seeds=(0, 1, 2),
    settings=("epochs=12", "patience=12", "max_length=200"),
)
ACCEPTS_RUNS = True

METRIC = "ndcg@10"
SHARE = 0.9
"""Share of the weight that the newest events are counted for."""
CHANGES = ("truncated", "shuffled", "replaced")
NAMES = {"gates": "the weight by gates", "attention": "the attention"}
"""Methods that read weights of single layers; a model has one of them at most."""


def run(context: StudyContext) -> list[Cell]:
    """Measure every model with all numbers of events."""
    values = list(context.grid.values)
    return [
        context.cell({**studied.about, "values": values}, partial(_measure, context, studied))
        for studied in context.studied_models()
    ]


class ChangedHistories:
    """A model that reads changed histories.

    The items that are excluded from its ranking remain those of the true histories.

    Args:
        change: returns the events that are read in place of those of a block of queries.
    """

    def __init__(self, model: Any, change: Callable[[Events], Events]) -> None:
        self.model, self.change = model, change
        self.schema: DataSchema = model.schema

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of the model for the changed histories."""
        scores: Scores = self.model.score(replace(queries, history=self.change(queries.history)), candidates)
        return scores


def shuffle_older(history: Events, count: int, rng: np.random.Generator) -> Events:
    """Shuffle the items of all but the newest ``count`` events of each history.

    Times, values and everything else stay in place.
    """
    is_older_T = _is_older(history, count)
    keys_T = np.where(is_older_T, rng.random(history.size), 1.0 + np.arange(history.size))
    return replace(history, items=history.items[np.lexsort((keys_T, history.rows))])


def replace_older(history: Events, count: int, rng: np.random.Generator, items: Codes) -> Events:
    """Draw the items of all but the newest ``count`` events from ``items``."""
    drawn_T = items[rng.integers(0, len(items), history.size)]
    return replace(history, items=np.where(_is_older(history, count), drawn_T, history.items))


def _is_older(history: Events, count: int) -> Mask:
    """Return for each event whether ``count`` others or more follow it in its history."""
    older: Mask = np.arange(history.size) < history.offsets[1:][history.rows] - count
    return older


def _measure(context: StudyContext, studied: StudiedModel) -> dict[str, Any]:
    from segue.studies.framework.attribution import events_read  # needs torch
    from segue.studies.framework.usage import choose_window, event_weights, share_of_events

    trained = studied.load()
    model: Any = trained.model
    test = context.parts.test
    full = context.evaluate(trained)
    limit = events_read(model)
    window, rows = choose_window(test.queries.history.lengths, studied.length)
    weights = event_weights(model, test.queries.take(rows), first_targets(test)[rows], window)
    shares = {name: share_of_events(weights_NL).mean(0) for name, weights_NL in weights.items()}
    return {
        METRIC: full[METRIC].mean,
        "interval": [full[METRIC].low, full[METRIC].high],
        "queries": len(test),
        "events_read": limit,
        "window": window,
        "window_queries": len(rows),
        "weights": {name: [float(share) for share in share_L[~np.isnan(share_L)]] for name, share_L in shares.items()},
        "events": [{"count": count, **_compare(context, model, limit, count, full)} for count in context.grid.values],
    }


def _compare(context: StudyContext, model: Any, limit: int | None, count: int, full: Any) -> dict[str, Any]:
    """Compare changed histories with the full ones, for one number of events."""
    test, training_items = context.parts.test, context.parts.train.histories.items
    rng = np.random.default_rng([context.first_plan.run.seed, count])

    def read(history: Events) -> Events:
        return history if limit is None else history.last(limit)

    changes: dict[str, Callable[[Events], Events]] = {
        "truncated": lambda history: history.last(count),
        "shuffled": lambda history: shuffle_older(read(history), count, rng),
        "replaced": lambda history: replace_older(read(history), count, rng, training_items),
    }
    found: dict[str, Any] = {}
    for name, change in changes.items():
        result = evaluate(
            ChangedHistories(model, change), test, (10,), (METRIC,), context.first_plan.evaluation.exclude_seen
        )
        difference = estimate((result.values[METRIC] - full.values[METRIC])[:, None])[0]
        found[name] = {
            METRIC: result[METRIC].mean,
            "difference": [difference.mean, difference.low, difference.high],
            "list_kept": shared_share(full.top, result.top),
        }
    return found


def effective_length(cell: Cell) -> int | None:
    """Return the number of events from which on truncation loses nothing significant.

    ``None``: it always does.
    """
    smallest = None
    for line in reversed(cell["events"]):
        if line["truncated"]["difference"][2] < 0:
            break
        smallest = line["count"]
    return smallest


def _of_events(cells: Sequence[Cell], number: int, change: str, name: str) -> NDArray[np.float64]:
    """Return a measurement with the ``number``-th count, the mean over seeds."""
    values: NDArray[np.float64] = np.mean([cell["events"][number][change][name] for cell in cells], axis=0)
    return values


def _mean_weights(cells: Sequence[Cell], names: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the mean weights over seeds by the first method that the model has."""
    for name in names:
        if name in cells[0]["weights"]:
            weights_L: NDArray[np.float64] = np.mean([cell["weights"][name] for cell in cells], axis=0)
            return weights_L
    return None


def _longest_of_seeds(cells: Sequence[Cell]) -> int | None:
    """Return the effective length that suffices with every seed."""
    lengths = [effective_length(cell) for cell in cells]
    return None if None in lengths else max(length for length in lengths if length is not None)


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model, and the comparisons by number of events."""
    groups = by_name(cells)
    summary = []
    rows = []
    for model, group in groups.items():
        inner, gradient = _mean_weights(group, tuple(NAMES)), _mean_weights(group, ("gradient",))
        summary.append(
            [
                model,
                float(np.mean([cell[METRIC] for cell in group])),
                _longest_of_seeds(group),
                None if inner is None else events_for_share(inner, SHARE),
                None if gradient is None else events_for_share(gradient, SHARE),
                group[0]["window"],
            ]
        )
        for number, line in enumerate(group[0]["events"]):
            row: list[str | float | int | None] = [model, line["count"]]
            for change in CHANGES:
                mean, low, high = _of_events(group, number, change, "difference")
                row += [f"{_signed(mean)} [{_signed(low)}, {_signed(high)}]"]
                row += [float(_of_events(group, number, change, "list_kept"))]
            rows.append(row)
    names = ("model", "NDCG@10", "effective length", "90 % of gates or attention", "90 % of the gradient", "of events")
    note = (
        "Numbers of newest events; the last column is the number of events that the weights are measured on. The "
        "effective length suffices with every seed. Where it is empty, every truncation loses accuracy."
    )
    columns = (
        *("model", "newest events", "truncated, difference of NDCG@10", "list kept"),
        *("older shuffled", "list kept", "older replaced", "list kept"),
    )
    about = (
        "Differences from the full history with 95 % intervals over queries. Differences and the ends of the intervals "
        "are means over the seeds, so that a difference may be significant with one of them only. List kept: share of "
        "the ten recommended items."
    )
    return [
        StudyTable("Events that are used", names, summary, note),
        StudyTable("Changed histories", columns, rows, about, digits=2),
    ]


def _signed(value: float) -> str:
    return f"{round(value, 4) + 0.0:+.4f}"  # no negative zero


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw accuracy and kept lists by number of events, and the cumulative weights."""
    groups = by_name(cells)
    counts = [float(line["count"]) for line in cells[0]["events"]]

    def relative(group: Sequence[Cell], change: str) -> list[tuple[float, float, float, float]]:
        full = max(float(np.mean([cell[METRIC] for cell in group])), 1e-12)
        ends = [1 + _of_events(group, number, change, "difference") / full for number in range(len(counts))]
        return [
            (count, float(mean), float(low), float(high)) for count, (mean, low, high) in zip(counts, ends, strict=True)
        ]

    def kept(group: Sequence[Cell]) -> list[tuple[float, float]]:
        return [
            (count, float(_of_events(group, number, "replaced", "list_kept"))) for number, count in enumerate(counts)
        ]

    def cumulative(names: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
        found = {model: _mean_weights(group, names) for model, group in groups.items()}
        return {
            model: [(number + 1.0, float(share)) for number, share in enumerate(np.cumsum(weights_L))]
            for model, weights_L in found.items()
            if weights_L is not None
        }

    newest = "newest events"
    drawn = {
        "Accuracy with the newest events only": draw_lines(
            {model: relative(group, "truncated") for model, group in groups.items()},
            newest,
            "NDCG@10 / that of the full history",
            log_x=True,
        ),
        "Recommendations that stay if older items are replaced": draw_lines(
            {model: kept(group) for model, group in groups.items()},
            "newest events that are not replaced",
            "share of the ten items",
            log_x=True,
        ),
        "Gradient in the newest events": draw_lines(cumulative(("gradient",)), newest, "share of the gradient"),
    }
    if inner := cumulative(tuple(NAMES)):
        named = {f"{model}: {_inner_name(groups[model])}": line for model, line in inner.items()}
        drawn["Gates and attention in the newest events"] = draw_lines(named, newest, "share of the weight")
    return drawn


def _inner_name(cells: Sequence[Cell]) -> str:
    return next(name for name in NAMES if name in cells[0]["weights"])


def answer(cells: Sequence[Cell]) -> list[str]:
    """State effective length and weights, model by model."""
    sentences = []
    for model, group in by_name(cells).items():
        full = float(np.mean([cell[METRIC] for cell in group]))
        text = f"`{model}`: NDCG@10 is {full:.3f} with the full history. {_describe_truncation(group)}"
        inner, gradient = _mean_weights(group, tuple(NAMES)), _mean_weights(group, ("gradient",))
        named = {} if inner is None else {NAMES[_inner_name(group)]: inner}
        named |= {} if gradient is None else {"the gradient": gradient}
        parts = [
            f"{SHARE:.0%} of {name} is in the newest {events_for_share(weights_L, SHARE)}"
            for name, weights_L in named.items()
        ]
        sentences.append(f"{text} Of {group[0]['window']} events, {' and '.join(parts)}.")
    return sentences


def _describe_truncation(group: Sequence[Cell]) -> str:
    """Say how many events accuracy needs, and what changes without the others."""
    counts = [line["count"] for line in group[0]["events"]]
    length = _longest_of_seeds(group)
    if length is None:
        mean, low, high = _of_events(group, -1, "truncated", "difference")
        lower = sum(effective_length(cell) is None for cell in group)
        of_seeds = "" if lower == len(group) else f", with {lower} of {len(group)} seeds"
        return (
            f"It is still significantly lower with the newest {counts[-1]} events only{of_seeds}: by {-mean:.3f} (95 % "
            f"interval {-high:.3f} to {-low:.3f})."
        )
    number = counts.index(length)
    accuracy = float(_of_events(group, number, "truncated", METRIC))
    _, low, high = _of_events(group, number, "truncated", "difference")
    text = (
        f"With {_newest(length)} alone it is not significantly lower: {accuracy:.3f} (95 % interval of the difference "
        f"{low:+.3f} to {high:+.3f})"
    )
    if number:
        lower = sum(cell["events"][number - 1]["truncated"]["difference"][2] < 0 for cell in group)
        of_seeds = "" if lower == len(group) else f" with {lower} of {len(group)} seeds"
        text += (
            f"; with {counts[number - 1]} it is {float(_of_events(group, number - 1, 'truncated', METRIC)):.3f}, "
            f"significantly lower{of_seeds}"
        )
    higher = [
        count
        for number, count in enumerate(counts)
        if min(cell["events"][number]["truncated"]["difference"][1] for cell in group) > 0
    ]
    if higher:
        best = max(higher, key=lambda count: float(_of_events(group, counts.index(count), "truncated", METRIC)))
        gain = _of_events(group, counts.index(best), "truncated", "difference")[0]
        text += f". It is significantly higher without the older events, by {gain:.3f} with {_newest(best)} alone"
    kept = [float(_of_events(group, number, change, "list_kept")) for change in CHANGES]
    return (
        f"{text}. Of the ten recommended items, {kept[0]:.0%} stay with {_newest(length)} alone, {kept[1]:.0%} if the "
        f"items of older events are shuffled, and {kept[2]:.0%} if they are replaced by random ones."
    )


def _newest(count: int) -> str:
    return "the newest event" if count == 1 else f"the newest {count} events"
