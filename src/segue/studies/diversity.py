"""Diversity, coverage and popularity bias by the length of the histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, mean_of

__all__ = ["DEFAULT", "FULL", "METHOD", "METRICS", "QUESTION", "REQUIRES", "answer", "figures", "run", "tables"]

QUESTION = "Do longer histories make recommendations more diverse, or more popular?"
METHOD = """
Each model is trained with several lengths, and its lists of ten for the test queries are measured: coverage is the
share of the catalog that is recommended to at least one user; Gini is 0 if all items are recommended equally often
and 1 if one item takes all places; the popularity lift is the mean popularity of the recommended items relative to
that of the users' histories, minus 1 (Abdollahpouri and others 2019); novelty is the mean self-information of the
items in bits; diversity is one minus the mean cosine of the items of a list by the users who have both. The most
popular items and neighbors of items are the reference.
"""
REQUIRES = ("max_length",)
DEFAULT = Grid(values=(10, 50), settings=("epochs=3",))
FULL = Grid(values=(10, 25, 50, 100, 200), seeds=(0, 1, 2), settings=("epochs=12", "patience=12"))

METRICS = ("ndcg@10", "coverage@10", "gini@10", "popularity_lift@10", "novelty@10", "diversity@10")
SHOWN = {"coverage@10": ".1%", "popularity_lift@10": "+.2f", "diversity@10": ".3f", "ndcg@10": ".3f"}
"""Metrics of the answer and their formats."""
REFERENCES = ("popular", "item_knn")
"""Models without a length, for comparison."""


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every length, and the references once."""
    cells = [
        context.cell({"model": model, "length": length, "seed": seed}, partial(_measure, context, model, length, seed))
        for model in context.grid.models
        for length in context.grid.values
        for seed in context.grid.seeds
    ]
    references = [
        context.cell({"model": model, "length": None, "seed": 0}, partial(_measure, context, model, None, 0))
        for model in REFERENCES
        if model not in context.grid.models
    ]
    return [*cells, *references]


def _measure(context: StudyContext, key: str, length: int | None, seed: int) -> dict[str, Any]:
    trained = context.train(key, *([] if length is None else [f"max_length={length}"]), seed=seed)
    found = context.evaluate(trained.bundle, metrics=METRICS)
    return {name: found[name].mean for name in METRICS} | {
        f"{name} interval": [found[name].low, found[name].high] for name in METRICS
    }


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and length."""
    rows = [
        [model, length, *(mean_of(chosen, name) for name in METRICS)]
        for (model, length), chosen in by_model(cells, "length").items()
    ]
    columns = ("model", "length", "NDCG@10", "coverage", "Gini", "popularity lift", "novelty, bits", "diversity")
    return [StudyTable("Lists of ten by length", columns, rows)]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw coverage and popularity lift by length."""
    groups = {key: chosen for key, chosen in by_model(cells, "length").items() if key[1] is not None}

    def lines(metric: str) -> dict[str, list[tuple[float, float]]]:
        return {
            model: [
                (float(length), mean_of(chosen, metric)) for (name, length), chosen in groups.items() if name == model
            ]
            for model in dict.fromkeys(model for model, _ in groups)
        }

    return {
        "Coverage by length": draw_lines(lines("coverage@10"), "length", "share of the catalog"),
        "Popularity lift by length": draw_lines(lines("popularity_lift@10"), "length", "popularity lift"),
    }


def answer(cells: Sequence[Cell]) -> list[str]:
    """State coverage, lift and diversity of shortest and longest histories."""
    groups = by_model(cells, "length")
    lengths = sorted({length for _, length in groups if length is not None})
    sentences = []
    for model in dict.fromkeys(model for model, length in groups if length is not None):
        first, last = groups[model, lengths[0]], groups[model, lengths[-1]]
        coverage, lift, diversity, accuracy = (
            " and ".join(format(mean_of(chosen, metric), form) for chosen in (first, last))
            for metric, form in SHOWN.items()
        )
        sentences.append(
            f"`{model}` with {lengths[0]} and {lengths[-1]} events: coverage {coverage}, popularity lift {lift}, "
            f"diversity {diversity}, NDCG@10 {accuracy}."
        )
    references = "; ".join(
        f"`{model}` coverage {mean_of(groups[model, None], 'coverage@10'):.1%}, popularity lift "
        f"{mean_of(groups[model, None], 'popularity_lift@10'):+.2f}"
        for model, length in groups
        if length is None
    )
    return [*sentences, *([f"For comparison: {references}."] if references else [])]
