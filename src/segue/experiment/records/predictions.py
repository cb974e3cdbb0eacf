"""Store what a run predicts for held-out queries.

These are histories, targets, and lists with titles, logits and probabilities.

Shapes: N queries, R queries of one block, k items of a list, T targets.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.model import Predictor
from segue.core.recommend import exclude, log_partition, score_blocks, top_k
from segue.core.types import HeldOut, Mask, Queries, Recommendations
from segue.evaluation.ranking import ExcludeSeen, removed_events
from segue.evaluation.rating_metrics import prediction_errors
from segue.training.trackers.client import PredictionRows

__all__ = ["MAX_QUERIES", "PREDICTIONS", "predict_queries", "readable_predictions"]

PREDICTIONS = "predictions.parquet"
"""File of a run with one row per query."""

MAX_QUERIES = 500
"""Queries that are stored, evenly spaced over those of the part."""

LIST_LENGTH = 10
HISTORY_LENGTH = 50
"""Newest events of a history that are stored."""

SHOWN_QUERIES, SHOWN_HISTORY = 100, 5
"""Queries, and events of their histories, of the table for tracking tools."""


def predict_queries(
    trained: TrainedModel, held_out: HeldOut, exclude_seen: ExcludeSeen, allowed: Mask | None
) -> pl.DataFrame:
    """Recommend ten items for held-out queries, as in the evaluation.

    Args:
        exclude_seen: whether items of the history are left out, see :func:`segue.evaluation.ranking.rank`.
        allowed: ``(n_items,)`` items that are ranked; ``None``: all.

    Returns:
        One row per query: ``query`` (its number in the part), ``user`` (null if unknown), ``history`` and
        ``history_titles`` (newest events, oldest first), ``history_length``, ``targets``, ``target_titles``,
        ``target_values`` (such as ratings), ``predicted_values`` (by models that predict them), ``items``, ``titles``,
        ``scores`` (logits of models of logits) and ``probabilities`` (of these models; over the whole catalog, without
        seen items where those are left out). What there is not is null.
    """
    n_all = len(held_out)
    numbers = np.unique(np.linspace(0, n_all - 1, min(n_all, MAX_QUERIES)).round().astype(np.int64))
    sample = replace(held_out, queries=held_out.queries.take(numbers), targets=held_out.targets.take(numbers))
    queries, targets = sample.queries, sample.targets
    top = _rank(trained, queries, exclude_seen, allowed)
    users = trained.users.decode_typed(np.where(queries.known, queries.users, 0))
    history = queries.history.last(HISTORY_LENGTH)
    is_used = np.arange(top.items.shape[1]) < top.lengths[:, None]
    probabilities = None if top.probabilities is None else top.probabilities[is_used]
    values = None if targets.values is None else targets.values.astype(np.float64)
    columns: dict[str, Any] = {
        "query": pl.Series(numbers),
        "user": users.set(pl.Series(~queries.known), None),
        **_items(trained, "history", "history_titles", history.items, history.lengths),
        "history_length": pl.Series(queries.history.lengths.astype(np.int64)),
        **_items(trained, "targets", "target_titles", targets.items, targets.lengths),
        "target_values": _lists(values, targets.lengths),
        "predicted_values": _lists(_predict(trained, sample), targets.lengths),
        **_items(trained, "items", "titles", top.items[is_used], top.lengths),
        "scores": _lists(top.scores[is_used].astype(np.float64), top.lengths),
        "probabilities": _lists(None if probabilities is None else probabilities.astype(np.float64), top.lengths),
    }
    return pl.DataFrame([column.alias(name) for name, column in columns.items()])


def _rank(trained: TrainedModel, queries: Queries, exclude_seen: ExcludeSeen, allowed: Mask | None) -> Recommendations:
    """Recommend items by the rules of the evaluation.

    Unlike :func:`segue.core.recommend.recommend`, it can leave out the items of only the newest events.
    """
    parts = []
    is_logit = trained.model.scale == "logit"
    for block, scores_RI in score_blocks(trained.model, queries):
        if exclude_seen:
            exclude(scores_RI, removed_events(block.history, exclude_seen))
        totals_R = log_partition(scores_RI) if is_logit else None
        if allowed is not None:
            scores_RI[:, ~allowed] = -np.inf
        parts.append(top_k(scores_RI, LIST_LENGTH, totals_R))
    return Recommendations.concat(parts, LIST_LENGTH)


def _predict(trained: TrainedModel, held_out: HeldOut) -> NDArray[np.float64] | None:
    """Predict the value of each target, ``(T,)``, as in the evaluation.

    Targets without a value get NaN; ``None``: there are no values, or the model predicts none.
    """
    model, values = trained.model, held_out.targets.values
    if not (isinstance(model, Predictor) and model.predicts_ratings) or values is None:
        return None
    found = values.astype(np.float64)
    has_value = np.isfinite(found)
    if has_value.any():
        found[has_value] += prediction_errors(model, held_out).errors
    return found


def _items(
    trained: TrainedModel, ids: str, titles: str, codes: NDArray[Any], lengths: NDArray[Any]
) -> dict[str, pl.Series]:
    """Return lists of ids and of titles of items."""
    found = {ids: _lists(trained.items.decode_typed(codes), lengths)}
    if "title" in trained.catalog.collect_schema().names():
        catalog = trained.catalog.select("title").collect().to_series()
        return {**found, titles: _lists(catalog.gather(codes.astype(np.int64)), lengths)}
    return {**found, titles: _lists(None, lengths, pl.String)}


def _lists(values: Any, lengths: NDArray[Any], kind: type[pl.DataType] = pl.Float64) -> pl.Series:
    """Cut a flat column into one list per row.

    Without a column, every row is null in a column of lists of ``kind``.
    """
    if values is None:
        return pl.Series([None] * len(lengths), dtype=pl.List(kind))
    flat = values if isinstance(values, pl.Series) else pl.Series(values)
    rows = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), "value": flat})
    lists = rows.group_by("row", maintain_order=True).agg("value")
    every = pl.DataFrame({"row": np.arange(len(lengths))}).join(lists, on="row", how="left")
    return every["value"].fill_null([])


def readable_predictions(table: pl.DataFrame) -> PredictionRows:
    """Return the first predictions as text, for tracking tools.

    Items without a title are named by their ids.
    """
    columns = ("user", "newest events", "targets", *(f"item {rank}" for rank in range(1, LIST_LENGTH + 1)))
    rows = []
    for row in table.head(SHOWN_QUERIES).iter_rows(named=True):
        names = {
            ids: [
                str(code) if title is None else title
                for code, title in zip(row[ids], row[titles] or [None] * len(row[ids]), strict=True)
            ]
            for ids, titles in (("history", "history_titles"), ("targets", "target_titles"), ("items", "titles"))
        }
        shown = [
            f"{name} ({value:.1%})" if row["probabilities"] is not None else f"{name} ({value:.3g})"
            for name, value in zip(names["items"], row["probabilities"] or row["scores"], strict=True)
        ]
        history = "; ".join(names["history"][-SHOWN_HISTORY:])
        user = "unknown" if row["user"] is None else str(row["user"])
        rows.append((user, history, "; ".join(names["targets"]), *shown, *[""] * (LIST_LENGTH - len(shown))))
    return PredictionRows(columns, rows)
