"""Overfitting: accuracy on training targets and on new ones, by length.

Also memorized sequences and unseen transitions.

Shapes: N queries, U users, I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Events
from segue.core.types import HeldOut, Mask
from segue.studies.framework.context import StudyContext
from segue.studies.framework.drawing import draw_lines
from segue.studies.framework.study import Cell, Grid, StudyChart, StudyTable
from segue.studies.framework.summary import by_model, first_targets, mean_of

__all__ = [
    "DEFAULT",
    "FULL",
    "METHOD",
    "QUESTION",
    "REQUIRES",
    "answer",
    "figures",
    "is_known_sequence",
    "run",
    "tables",
    "training_targets",
]

QUESTION = "Do models with longer histories memorize more and generalize less?"
METHOD = """
Each model is trained with several lengths; the best epoch on validation is kept, and the curve by epoch shows what
comes after it. Training accuracy is NDCG@10 for the last training event of each user, given the events before it,
which the model was trained to predict; validation accuracy is that of the next event, which it has not seen. Both
exclude the items of the history from the ranking. A recommendation is memorized if the last two events of the history
followed by the first recommended item occur as neighbors, in this order, in the training history of some user; the
same share of the true items shows how much of this is the data. Test queries are divided by whether their transition,
from the last event to the true item, occurs in training.
"""
REQUIRES = ("max_length", "epochs")
CONSTANT = ("patience=1000", "schedule=constant", "training.learning_rate=1e-3")
"""No schedule and no early stopping, so that every epoch can be compared."""
DEFAULT = Grid(values=(10, 50), settings=("epochs=4", *CONSTANT))
FULL = Grid(values=(10, 50, 100, 200), seeds=(0, 1, 2), settings=("epochs=20", *CONSTANT))

METRIC = "ndcg@10"


def run(context: StudyContext) -> list[Cell]:
    """Train every model with every length."""
    return [
        context.cell({"model": model, "length": length, "seed": seed}, partial(_measure, context, model, length, seed))
        for model in context.grid.models
        for length in context.grid.values
        for seed in context.grid.seeds
    ]


def training_targets(valid: HeldOut) -> HeldOut:
    """Return queries for the last event of each history, given the events before it.

    Args:
        valid: queries whose histories are those of training; those with fewer than two events are left out.
    """
    rows = np.flatnonzero(valid.queries.history.lengths >= 2)
    queries = valid.queries.take(rows)
    history = queries.history
    before = history.slice_rows(np.zeros(len(rows), np.int64), history.lengths - 1)
    return replace(valid, queries=replace(queries, history=before), targets=history.last(1), test_id=None)


def is_known_sequence(histories: Events, rows_NS: NDArray[np.int64], n_items: int) -> Mask:
    """Return whether sequences of S items, ``(N, S)``, occur in a history.

    Raises:
        ValueError: the catalog is too large for sequences of this length.
    """
    size = rows_NS.shape[1]
    if n_items**size >= 2**63:
        raise ValueError(
            f"the catalog has {n_items:,} items, expected at most {int(2 ** (63 / size)):,} for this study"
        )
    items = histories.items.astype(np.int64)
    starts = np.arange(len(items) - size + 1) if len(items) >= size else np.zeros(0, np.int64)
    is_within = np.ones(len(starts), bool)
    codes, wanted = np.zeros(len(starts), np.int64), np.zeros(len(rows_NS), np.int64)
    for step in range(size):
        codes = codes * n_items + items[starts + step]
        wanted = wanted * n_items + rows_NS[:, step]
        is_within &= histories.rows[starts + step] == histories.rows[starts]
    found: Mask = np.isin(wanted, codes[is_within])
    return found


def _measure(context: StudyContext, key: str, length: int, seed: int) -> dict[str, Any]:
    trained = context.train(key, f"max_length={length}", seed=seed)
    parts, histories, n_items = context.parts, context.parts.train.histories, context.data.n_items
    found = context.evaluate(trained.bundle)
    history, targets = parts.test.queries.history, first_targets(parts.test)
    long = history.lengths >= 2
    last_N2 = history.items[history.offsets[1:][long][:, None] - np.array([2, 1])].astype(np.int64)
    top = found.top.items[long, 0].astype(np.int64)
    memorized = is_known_sequence(histories, np.column_stack([last_N2, top]), n_items)
    true = is_known_sequence(histories, np.column_stack([last_N2, targets[long]]), n_items)
    seen = is_known_sequence(histories, np.column_stack([last_N2[:, 1], targets[long]]), n_items)
    values = found.values[METRIC][long]
    return {
        "training": context.evaluate(trained.bundle, training_targets(parts.valid))[METRIC].mean,
        "validation": context.evaluate(trained.bundle, parts.valid)[METRIC].mean,
        "test": found[METRIC].mean,
        "memorized": float(memorized.mean()),
        "memorized_true": float(true.mean()),
        "seen_share": float(seen.mean()),
        "seen": float(values[seen].mean()) if seen.any() else None,
        "unseen": float(values[~seen].mean()) if not seen.all() else None,
        "losses": [line["loss"] for line in trained.history],
        "validations": [line.get(f"valid/{METRIC}") for line in trained.history],
    }


def tables(cells: Sequence[Cell]) -> list[StudyTable]:
    """Return a row per model and length."""
    names = ("training", "validation", "memorized", "memorized_true", "seen", "unseen", "seen_share")
    rows = [
        [
            model,
            length,
            *(mean_of(chosen, name) for name in names[:2]),
            _gap(chosen),
            *(mean_of(chosen, name) for name in names[2:]),
        ]
        for (model, length), chosen in by_model(cells, "length").items()
    ]
    columns = (
        *("model", "length", "training NDCG@10", "validation", "gap", "memorized", "true items memorized"),
        *("test, transition seen", "test, unseen", "share seen"),
    )
    return [StudyTable("Training and validation by length", columns, rows)]


def _gap(cells: Sequence[Cell]) -> float:
    return mean_of(cells, "training") - mean_of(cells, "validation")


def figures(cells: Sequence[Cell]) -> Mapping[str, StudyChart]:
    """Draw the gap by length, and validation by epoch for the largest one."""
    groups = by_model(cells, "length")
    longest = max(length for _, length in groups)
    models = list(dict.fromkeys(model for model, _ in groups))
    gaps = {
        model: [(float(length), _gap(chosen)) for (name, length), chosen in groups.items() if name == model]
        for model in models
    }
    curves = {
        model: [
            (number + 1.0, value)
            for number, value in enumerate(groups[model, longest][0]["validations"])
            if value is not None
        ]
        for model in models
    }
    return {
        "Gap between training and validation": draw_lines(gaps, "length", "NDCG@10, training - validation"),
        f"Validation by epoch, length {longest}": draw_lines(curves, "epoch", "validation NDCG@10"),
    }


def answer(cells: Sequence[Cell]) -> list[str]:
    """State the gap, memorized recommendations and unseen transitions, model by model."""
    groups = by_model(cells, "length")
    lengths = sorted({length for _, length in groups})
    sentences = []
    for model in dict.fromkeys(model for model, _ in groups):
        first, last = groups[model, lengths[0]], groups[model, lengths[-1]]
        text = (
            f"`{model}`: training is {_gap(first):+.3f} NDCG@10 above validation with length {lengths[0]} and "
            f"{_gap(last):+.3f} with {lengths[-1]}. {mean_of(last, 'memorized'):.0%} of its first recommendations "
            f"complete a sequence of three items that occurs in training, as "
            f"{mean_of(last, 'memorized_true'):.0%} of the true items do"
        )
        if not np.isnan(mean_of(last, "seen")) and not np.isnan(mean_of(last, "unseen")):
            text += (
                f". NDCG@10 is {mean_of(last, 'seen'):.3f} where the transition occurs in training and "
                f"{mean_of(last, 'unseen'):.3f} elsewhere"
            )
        sentences.append(text + ".")
    return sentences
