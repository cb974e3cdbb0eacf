"""Variance over seeds: how much of a difference is the randomness of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, Row, StudyChart, StudyTable
from segue.studies.framework.summary import shared_share

__all__ = [
    "DEFAULT",
    "FULL",
    "METHOD",
    "QUESTION",
    "REQUIRES",
    "answer",
    "figures",
    "order_changes",
    "run",
    "shared_share",
    "tables",
]

QUESTION = "How much do results change with the seed alone, and can one seed order the models?"
METHOD = """
Each model is trained with several seeds and otherwise equal settings; the split is the same. The table compares the
standard deviation of NDCG@10 on the test part over the seeds with the standard error over the users, which the
intervals of a single run show. Two trainings of different models are in the wrong order if the model with the lower
mean over the seeds is above the other one; the share is over all pairs of seeds. Agreement is the mean share of items
that two lists of ten for the same user have in common, with two seeds of the same model.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=("seed",), seeds=(0, 1, 2), settings=("epochs=2",))
FULL = Grid(values=("seed",), seeds=tuple(range(10)), settings=("epochs=12", "patience=12"))

METRIC = "ndcg@10"


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every seed."""
    return [
        context.cell({"model": model, "seed": seed}, partial(_measure, context, model, seed))
        for model in context.grid.models
        for seed in context.grid.seeds
    ]


def _measure(context: StudyContext, key: str, seed: int) -> dict[str, Any]:
    found = context.evaluate(context.train(key, seed=seed).bundle)
    values = found.values[METRIC]
    reference = context.grid.seeds[0]
    first = found if seed == reference else context.evaluate(context.train(key, seed=reference).bundle)
    return {
        METRIC: found[METRIC].mean,
        "standard_error": float(values.std(ddof=1) / np.sqrt(len(values))),
        "agreement": shared_share(found.top, first.top),
    }


def _by_model(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell["model"], []).append(cell)
    return groups


def order_changes(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the share of pairs whose order is not that of the means.

    Equal values count half.
    """
    difference = np.subtract.outer(np.asarray(one), np.asarray(other)) * np.sign(np.mean(one) - np.mean(other))
    return float((difference < 0).mean() + 0.5 * (difference == 0).mean())


def _summary(cells: Sequence[Cell]) -> dict[str, tuple[float, float, float, float]]:
    """Return mean, deviation, standard error and agreement by model."""
    found = {}
    for model, chosen in _by_model(cells).items():
        values = [cell[METRIC] for cell in chosen]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        agreement = [cell["agreement"] for cell in chosen[1:]]
        found[model] = (
            float(np.mean(values)),
            deviation,
            float(np.mean([cell["standard_error"] for cell in chosen])),
            float(np.mean(agreement)) if agreement else float("nan"),
        )
    return found


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return the spread of each model, and the wrong orders of each pair."""
    groups, summary = _by_model(cells), _summary(cells)
    rows = [
        [model, *numbers, min(cell[METRIC] for cell in groups[model]), max(cell[METRIC] for cell in groups[model])]
        for model, numbers in summary.items()
    ]
    columns = ("model", "NDCG@10", "± seeds", "standard error over users", "agreement with the first", "least", "most")
    pairs: list[Row] = [
        [
            f"{one} and {other}",
            summary[one][0] - summary[other][0],
            order_changes(*([cell[METRIC] for cell in groups[model]] for model in (one, other))),
        ]
        for one, other in combinations(groups, 2)
    ]
    found = [StudyTable("Spread over seeds", columns, rows, digits=4)]
    if pairs:
        found.append(
            StudyTable("Order of two trainings", ("models", "difference of means", "wrong order"), pairs, digits=4)
        )
    return found


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw accuracy by seed."""
    lines = {
        model: [(float(cell["seed"]), cell[METRIC]) for cell in chosen] for model, chosen in _by_model(cells).items()
    }
    return {"Accuracy by seed": draw_lines(lines, "seed", "NDCG@10")}


def answer(cells: Sequence[Cell]) -> list[str]:
    """Compare the spread over seeds with that over users, and state wrong orders."""
    groups, summary = _by_model(cells), _summary(cells)
    count = len(next(iter(groups.values())))
    if count < 2:
        return ["One seed says nothing about the spread."]
    sentences = [
        f"`{model}`: over {count} seeds the standard deviation of NDCG@10 is {deviation:.4f}, "
        f"{deviation / error:.1f} times the standard error over users ({error:.4f}); two seeds agree on "
        f"{agreement:.0%} of the recommended items."
        for model, (_, deviation, error, agreement) in summary.items()
        if error > 0
    ]
    pairs = {
        (one, other): order_changes(*([cell[METRIC] for cell in groups[model]] for model in (one, other)))
        for one, other in combinations(groups, 2)
    }
    unsure = [f"`{one}` and `{other}` ({share:.0%})" for (one, other), share in pairs.items() if share > 0.05]
    if pairs:
        sentences.append(
            f"Single trainings put {', '.join(unsure)} in the wrong order in more than one of twenty pairs of seeds."
            if unsure
            else "Single trainings order every pair of models as the means over the seeds do, but for at most one of "
            "twenty pairs of seeds."
        )
    return sentences
