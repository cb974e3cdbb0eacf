"""Scaling with data: accuracy by the share of users in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from segue.core.types import Split
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, is_apart, mean_of, spread_of

__all__ = ["DEFAULT", "FULL", "METHOD", "QUESTION", "REQUIRES", "answer", "figures", "keep_users", "run", "tables"]

QUESTION = "How much does accuracy gain from more data, and which models need most of it?"
METHOD = """
Each model is trained on the histories of a random share of the users, drawn with the seed of the training; larger
shares contain the smaller ones. The test queries and their histories are the same for all: those of all users, most of
whom the models of small shares have not been trained on. The last column is the gain of NDCG@10 per doubling of the
data, the slope of a line through the shares on a logarithmic scale. `item_knn` shows how simple counting scales.
"""
REQUIRES: tuple[str, ...] = ()
DEFAULT = Grid(values=(0.1, 0.3, 1.0), settings=("epochs=3",))
FULL = Grid(values=(0.05, 0.1, 0.2, 0.4, 0.7, 1.0), seeds=(0, 1, 2), settings=("epochs=24", "patience=24"))

METRIC = "ndcg@10"
REFERENCE = "item_knn"


def run(context: StudyContext) -> list[Cell]:
    """Train every model on every share."""
    models = dict.fromkeys((*context.grid.models, REFERENCE))
    return [
        context.cell({"model": model, "share": share, "seed": seed}, partial(_measure, context, model, share, seed))
        for model in models
        for share in context.grid.values
        for seed in context.grid.seeds
    ]


def keep_users(parts: Split, share: float, seed: int) -> Split:
    """Keep the training histories of a random share of the users.

    Those of the others are empty.
    """
    histories = parts.train.histories
    order = np.random.default_rng(seed).permutation(len(histories))
    is_kept = np.zeros(len(histories), bool)
    is_kept[order[: max(1, round(share * len(histories)))]] = True
    kept = histories.slice_rows(np.zeros(len(histories), np.int64), np.where(is_kept, histories.lengths, 0))
    return replace(parts, train=parts.train.with_histories(kept))


def _measure(context: StudyContext, key: str, share: float, seed: int) -> dict[str, Any]:
    parts = context.parts if share == 1.0 else keep_users(context.parts, share, seed)
    label = "" if share == 1.0 else f"{share:g} of the users"
    trained = context.train(key, seed=seed, parts=parts, label=label)
    found = context.evaluate(trained.bundle)
    return {
        METRIC: found[METRIC].mean,
        "interval": [found[METRIC].low, found[METRIC].high],
        "events": parts.train.histories.size,
    }


def slope_per_doubling(events: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of a least-squares line by log2 of the events."""
    return float(np.polyfit(np.log2(events), values, 1)[0]) if len(set(events)) > 1 else float("nan")


def _slopes(cells: Sequence[Cell]) -> dict[str, float]:
    groups = by_model(cells, "share")
    return {
        model: slope_per_doubling(
            [mean_of(chosen, "events") for (name, _), chosen in groups.items() if name == model],
            [mean_of(chosen, METRIC) for (name, _), chosen in groups.items() if name == model],
        )
        for model in dict.fromkeys(model for model, _ in groups)
    }


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and share."""
    slopes = _slopes(cells)
    rows = [
        [
            *(model, f"{share:.0%}", round(mean_of(chosen, "events")), mean_of(chosen, METRIC)),
            *(spread_of(chosen, METRIC), slopes[model]),
        ]
        for (model, share), chosen in by_model(cells, "share").items()
    ]
    columns = ("model", "users", "events", "NDCG@10", "± seeds", "per doubling")
    return [StudyTable("Accuracy by the amount of data", columns, rows)]


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw accuracy by events."""
    groups = by_model(cells, "share")
    lines = {
        model: [
            (mean_of(chosen, "events"), mean_of(chosen, METRIC))
            for (name, _), chosen in groups.items()
            if name == model
        ]
        for model in dict.fromkeys(model for model, _ in groups)
    }
    return {"Accuracy by training events": draw_lines(lines, "training events", "NDCG@10", log_x=True)}


def answer(cells: Sequence[Cell]) -> list[str]:
    """State the gain per doubling, and which models are above counting."""
    groups, slopes = by_model(cells, "share"), _slopes(cells)
    shares = sorted({share for _, share in groups})
    ordered = sorted(slopes, key=lambda model: -slopes[model])
    sentences = [
        "Each doubling of the data adds to NDCG@10: "
        + ", ".join(f"`{model}` {slopes[model]:+.3f}" for model in ordered)
        + "."
    ]
    for share in (shares[0], shares[-1]):
        reference = groups[REFERENCE, share]
        mean = mean_of(reference, METRIC)
        above = [
            model
            for model in slopes
            if mean_of(groups[model, share], METRIC) > mean and is_apart(groups[model, share], reference, METRIC)
        ]
        listed = ", ".join(f"`{model}`" for model in above) or "no model"
        sentences.append(
            f"With {share:.0%} of the users, {listed} is above `{REFERENCE}` ({mean:.3f}) by more than the intervals "
            "and the seeds."
        )
    return sentences
