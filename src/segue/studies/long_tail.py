"""The long tail: accuracy by popularity of the item and length of the history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, Row, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, first_targets, mean_of

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "answer", "equal_groups", "figures", "run", "tables"]

QUESTION = "Which items and users do models serve well, and does the long tail get its share of recommendations?"
METHOD = """
The items are divided by their training events into groups with about the same number of events each, from the most
popular items to the least popular ones, which are the most numerous. For each group: the share of the true items of
the test that belong to it, the share of the places in the lists of ten that it gets, and the hit rate at 10 of the
queries whose true item belongs to it. The users are divided into as many groups of equal size by the length of their
history. `popular`, `item_knn` and `ease` show what simpler models do.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=(5,), settings=("epochs=3",))
FULL = Grid(values=(10,), seeds=(0, 1, 2), settings=("epochs=12", "patience=12"))

METRIC = "hit_rate@10"
REFERENCES = ("popular", "item_knn", "ease")


def run(context: StudyContext) -> list[Cell]:
    """Train every model, and divide items and users into groups."""
    models = dict.fromkeys((*context.grid.models, *REFERENCES))
    return [
        context.cell({"model": model, "groups": count, "seed": seed}, partial(_measure, context, model, count, seed))
        for model in models
        for count in context.grid.values
        for seed in (context.grid.seeds if model not in REFERENCES else context.grid.seeds[:1])
    ]


def equal_groups(weights: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Divide items into groups with about the same sum of weights.

    Group 0 has the items with the largest weights. Equal weights are in the same group.
    """
    order = np.argsort(-weights, kind="stable")
    total = weights.sum()
    before = np.concatenate([[0], np.cumsum(weights[order])[:-1]])
    groups = np.minimum((before * count) // max(1, total), count - 1)
    _, first, level_I = np.unique(-weights, return_index=True, return_inverse=True)
    group_of_level = groups[np.searchsorted(-weights[order], -weights[first])]
    found: NDArray[np.int64] = group_of_level[level_I].astype(np.int64)
    return found


def _measure(context: StudyContext, key: str, count: int, seed: int) -> dict[str, Any]:
    trained = context.train(key, seed=seed)
    found = context.evaluate(trained.bundle, metrics=("hit_rate@10", "ndcg@10"))
    group_I = equal_groups(context.item_events, count)
    target_N = group_I[first_targets(context.parts.test)]
    top = found.top
    places = top.items[np.arange(top.items.shape[1]) < top.lengths[:, None]]
    lengths_N = context.parts.test.queries.history.lengths
    user_N = np.argsort(np.argsort(lengths_N, kind="stable"), kind="stable") * count // max(1, len(lengths_N))
    values = found.values[METRIC]
    return {
        METRIC: found[METRIC].mean,
        "items": np.bincount(group_I, minlength=count).tolist(),
        "targets": (np.bincount(target_N, minlength=count) / len(target_N)).tolist(),
        "places": (np.bincount(group_I[places], minlength=count) / max(1, len(places))).tolist(),
        "by_item": [_mean(values[target_N == group]) for group in range(count)],
        "by_user": [_mean(values[user_N == group]) for group in range(count)],
        "lengths": [_mean(lengths_N[user_N == group].astype(np.float64)) for group in range(count)],
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None


def _series(cells: Sequence[Cell], name: str) -> list[float]:
    """Return the mean over the seeds by group."""
    count = len(cells[0][name])
    rows = [[np.nan if value is None else value for value in cell[name]] for cell in cells]
    assert all(len(row) == count for row in rows)
    return [float(value) for value in np.mean(rows, axis=0)]


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return places, hit rate by item group and by user group, a row per model."""
    groups = {model: chosen for (model, _), chosen in by_model(cells, "groups").items()}
    some = next(iter(groups.values()))
    numbers = range(len(some[0]["items"]))
    heads = tuple(f"group {number + 1}" for number in numbers)
    places: list[Row]
    places = [["true items", *_series(some, "targets")], ["items of the catalog", *_shares(some)]]
    places += [[model, *_series(chosen, "places")] for model, chosen in groups.items()]
    lengths = tuple(f"{value:.0f} events" for value in _series(some, "lengths"))
    return [
        StudyTable(
            "Share of the places in the lists, from the most to the least popular items",
            ("model", *heads),
            places,
        ),
        StudyTable(
            "Hit rate at 10 by popularity of the true item",
            ("model", "all", *heads),
            [[model, mean_of(chosen, METRIC), *_series(chosen, "by_item")] for model, chosen in groups.items()],
        ),
        StudyTable(
            "Hit rate at 10 by length of the history, mean length of the group",
            ("model", *lengths),
            [[model, *_series(chosen, "by_user")] for model, chosen in groups.items()],
        ),
    ]


def _shares(cells: Sequence[Cell]) -> list[float]:
    items = np.array(cells[0]["items"], np.float64)
    return [float(value) for value in items / items.sum()]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the share of places and the hit rate by popularity."""
    groups = {model: chosen for (model, _), chosen in by_model(cells, "groups").items()}

    def lines(name: str) -> dict[str, list[tuple[float, float]]]:
        return {
            model: [(number + 1.0, value) for number, value in enumerate(_series(chosen, name))]
            for model, chosen in groups.items()
        }

    some = next(iter(groups.values()))
    true = [(number + 1.0, value) for number, value in enumerate(_series(some, "targets"))]
    label = "group of items, most popular first"
    return {
        "Places by popularity": draw_lines({"true items": true, **lines("places")}, label, "share of the places"),
        "Hit rate by popularity": draw_lines(lines("by_item"), label, "hit rate at 10"),
    }


def answer(cells: Sequence[Cell]) -> list[str]:
    """Compare the places of the least popular items with the true items."""
    groups = {model: chosen for (model, _), chosen in by_model(cells, "groups").items()}
    some = next(iter(groups.values()))
    tail = _series(some, "targets")[-1]
    items = _shares(some)[-1]
    sentences = [
        f"The least popular items, {items:.0%} of the catalog with a {1 / len(some[0]['items']):.0%} share of the "
        f"training events, are {tail:.1%} of the true items."
    ]
    for model, chosen in groups.items():
        places, hits = _series(chosen, "places"), _series(chosen, "by_item")
        text = f"`{model}` gives them {places[-1]:.1%} of the places"
        if not np.isnan(hits[-1]) and not np.isnan(hits[0]):
            text += f"; its hit rate is {hits[0]:.3f} for the most popular items and {hits[-1]:.3f} for them"
        sentences.append(text + ".")
    return sentences
