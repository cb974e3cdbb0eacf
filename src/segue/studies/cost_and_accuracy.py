"""Cost against accuracy: what longer histories cost, and what they bring."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_scatter
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, describe_overlap, is_apart, mean_of, spread_of

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "answer", "figures", "pareto_front", "run", "tables"]

QUESTION = "What do longer histories cost, and which models and lengths are worth it?"
METHOD = """
Each model is trained with several lengths. The cost of training is the median time of an epoch without its
validation, on as many threads as the page states; that of recommending is the processor time per query of scoring the
whole catalog for the test queries, in batches, the fastest of three passes. Accuracy is NDCG@10 of the test part with
the best epoch on validation. A combination is on the Pareto front if no other one has both a lower training cost and
a higher accuracy.
"""
REQUIRES = ("max_length", "epochs")
DEFAULT = Grid(values=(10, 50), settings=("epochs=3",))
FULL = Grid(values=(10, 25, 50, 100, 200), seeds=(0, 1, 2), settings=("epochs=12", "patience=12"))

METRIC = "ndcg@10"
PASSES = 3


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every length."""
    return [
        context.cell({"model": model, "length": length, "seed": seed}, partial(_measure, context, model, length, seed))
        for model in context.grid.models
        for length in context.grid.values
        for seed in context.grid.seeds
    ]


def _measure(context: StudyContext, key: str, length: int, seed: int) -> dict[str, Any]:
    trained = context.train(key, f"max_length={length}", seed=seed)
    found = context.evaluate(trained.bundle)
    queries = context.parts.test.queries
    passes = []
    for _ in range(PASSES):
        started = time.process_time()
        for start in range(0, len(queries), 512):
            trained.model.score(queries.take(np.arange(start, min(start + 512, len(queries)))))
        passes.append(time.process_time() - started)
    return {
        METRIC: found[METRIC].mean,
        "interval": [found[METRIC].low, found[METRIC].high],
        "epoch_seconds": float(np.median([line["seconds"] for line in trained.history])),
        "epochs": len(trained.history),
        "query_ms": 1e3 * min(passes) / len(queries),
        "parameters": trained.parameters,
    }


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Return which points are on the Pareto front of low cost and high gain."""
    points = list(zip(costs, gains, strict=True))
    return [
        not any(cost <= own_cost and gain >= own_gain and (cost < own_cost or gain > own_gain) for cost, gain in points)
        for own_cost, own_gain in points
    ]


def _summary(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    groups = by_model(cells, "length")
    names = (METRIC, "epoch_seconds", "query_ms", "parameters")
    rows = [
        {"model": model, "length": length, **{name: mean_of(chosen, name) for name in names}}
        for (model, length), chosen in groups.items()
    ]
    front = pareto_front([row["epoch_seconds"] for row in rows], [row[METRIC] for row in rows])
    return [
        {**row, "is_best": is_best, "spread": spread_of(chosen, METRIC), "interval": _interval(chosen)}
        for row, is_best, chosen in zip(rows, front, groups.values(), strict=True)
    ]


def _interval(cells: Sequence[Cell]) -> str:
    low, high = (float(np.mean([cell["interval"][end] for cell in cells])) for end in (0, 1))
    return f"[{low:.3f}, {high:.3f}]"


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and length."""
    rows = [
        [
            row["model"],
            row["length"],
            row[METRIC],
            row["interval"],
            row["spread"],
            row["epoch_seconds"],
            row["query_ms"],
            round(row["parameters"]),
            "yes" if row["is_best"] else "",
        ]
        for row in _summary(cells)
    ]
    columns = (
        *("model", "length", "NDCG@10", "95 % over users", "± seeds", "s per epoch", "ms per query", "parameters"),
        "Pareto front",
    )
    return [StudyTable("Cost and accuracy by length", columns, rows)]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw accuracy by training cost."""
    rows = _summary(cells)
    points = {
        model: [(row["epoch_seconds"], row[METRIC], str(row["length"])) for row in rows if row["model"] == model]
        for model in dict.fromkeys(row["model"] for row in rows)
    }
    front = sorted((row["epoch_seconds"], row[METRIC]) for row in rows if row["is_best"])
    return {"Accuracy by cost": draw_scatter(points, front, "time of an epoch, s", "NDCG@10")}


def answer(cells: Sequence[Cell]) -> list[str]:
    """Name the front, and what the largest length adds."""
    rows, groups = _summary(cells), by_model(cells, "length")
    best = sorted((row for row in rows if row["is_best"]), key=lambda row: float(row["epoch_seconds"]))
    listed = "; ".join(
        f"`{row['model']}` with {row['length']} events ({row['epoch_seconds']:.1f} s per epoch, {row[METRIC]:.3f})"
        for row in best
    )
    sentences = [f"On the Pareto front of training cost and mean NDCG@10 are: {listed}."]
    pairs = [(one, other) for one, other in pairwise(best) if not _differ(groups, one, other)]
    if pairs:
        named = ", ".join(f"{_name(one)} and {_name(other)}" for one, other in pairs)
        sentences.append(f"The accuracies of neighbors on it differ by less than the intervals or the seeds: {named}.")
    for model in dict.fromkeys(row["model"] for row in rows):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: int(row["length"]))
        first, last = own[0], own[-1]
        if first is not last:
            sentences.append(
                f"`{model}` with {last['length']} instead of {first['length']} events costs "
                f"{last['epoch_seconds'] / max(first['epoch_seconds'], 1e-9):.1f} times as much per epoch and changes "
                f"NDCG@10 from {first[METRIC]:.3f} to {last[METRIC]:.3f}"
                f"{describe_overlap(groups[model, first['length']], groups[model, last['length']], METRIC)}."
            )
    return sentences


def _differ(groups: Mapping[tuple[str, Any], list[Cell]], one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return is_apart(groups[one["model"], one["length"]], groups[other["model"], other["length"]], METRIC)


def _name(row: Mapping[str, Any]) -> str:
    return f"`{row['model']}` with {row['length']}"
