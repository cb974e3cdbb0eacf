"""Errors of predicted values such as ratings, in the scale of the data.

``rmse`` and ``mae`` average over all targets, so that a user or item with many of them counts more. ``rmse_by_user``
averages the errors of the users, and ``rmse_by_item`` those of the items; ``mae_by_user`` and ``mae_by_item`` likewise.

Only the errors by user are means over queries by definition. Each metric here still returns one value per query, such
that the mean over the queries is the metric: the metric itself plus the contribution of the query. The contribution is
that of the delta method, and for the errors by item that of the jackknife: the change of the metric when the query is
left out, times the number of the other queries. Bootstrap intervals and paired tests over queries therefore hold for
errors as they do for ranking metrics, and resample a user with all their ratings. The value of a query without a target
that has a value is NaN.

Shapes: N queries, T targets with a value, P pairs of a query and an item, I items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Predictor
from segue.core.recommend import score_blocks
from segue.core.types import Codes, Events, HeldOut, Mask, Queries, Scores

__all__ = ["mae", "mae_by_item", "mae_by_user", "rmse", "rmse_by_item", "rmse_by_user"]

DEFAULT_ERRORS = ("mae", "rmse")
"""Errors that are computed wherever a model predicts values; the others are computed where they are named."""

Values: TypeAlias = NDArray[np.float64]

BLOCK_PAIRS = 1_000_000
"""User-item pairs predicted at once by :func:`training_errors`."""


@dataclass(frozen=True, eq=False)
class PredictionErrors:
    """Predicted minus true values."""

    rows: NDArray[np.int64]
    """``(T,)`` the query of each target."""
    items: Codes
    """``(T,)`` its item."""
    errors: Values
    """``(T,)``"""
    queries: int
    """N."""

    def __len__(self) -> int:
        return self.queries

    def select(self, mask: Mask) -> PredictionErrors:
        """Keep the errors of the queries in ``mask (N,)``.

        The other queries have no value.
        """
        return self.select_targets(mask[self.rows])

    def select_targets(self, keep: Mask) -> PredictionErrors:
        """Keep the errors in ``keep (T,)``."""
        return PredictionErrors(self.rows[keep], self.items[keep], self.errors[keep], self.queries)


def prediction_errors(model: Predictor, held_out: HeldOut) -> PredictionErrors:
    """Predict every target that has a value, and subtract the true value.

    Users who are not in the training data are predicted from their histories.

    Raises:
        ValueError: no target has a value, or a prediction is not finite.
    """
    targets, queries = held_out.targets, held_out.queries
    has_value = np.zeros(targets.size, np.bool_) if targets.values is None else np.isfinite(targets.values)
    if targets.values is None or not has_value.any():
        raise ValueError(f"ratings: none of {targets.size:,} targets has a value, expected values to compare with")
    rows = targets.rows[has_value]
    items, known = targets.items[has_value], queries.known[rows]
    use_times = queries.times is not None and targets.times is not None
    predicted = np.empty(len(rows), np.float32)
    predicted[known] = _predict_pairs(
        model, queries.users[rows[known]], targets, np.flatnonzero(has_value)[known], use_times
    )
    if not known.all():
        predicted[~known] = _predict_unknown_users(model, queries, rows[~known], items[~known])
    if not np.isfinite(predicted).all():
        at = int(np.argmin(np.isfinite(predicted)))
        raise ValueError(
            f"{type(model).__name__}: predicted {predicted[at]} for item {items[at]} in query {rows[at]}, expected a "
            "finite number"
        )
    return PredictionErrors(rows, items, predicted.astype(np.float64) - targets.values[has_value], len(held_out))


def training_errors(model: Predictor, train: Events, use_times: bool = False) -> dict[str, float] | None:
    """Compute ``rmse`` and ``mae`` on the training pairs, in blocks.

    Returns ``None`` where no event has a value.

    Args:
        train: one row per user of the model.
        use_times: whether the model is given the time of each event, as in the evaluation protocol.
    """
    if train.values is None or not np.isfinite(train.values).any():
        return None
    squares = absolutes = 0.0
    with_value = np.flatnonzero(np.isfinite(train.values))
    users = train.rows
    for start in range(0, len(with_value), BLOCK_PAIRS):
        block = with_value[start : start + BLOCK_PAIRS]
        predicted = _predict_pairs(model, users[block].astype(np.int32), train, block, use_times)
        errors = predicted.astype(np.float64) - train.values[block]
        squares += float(np.square(errors).sum())
        absolutes += float(np.abs(errors).sum())
    return {"mae": absolutes / len(with_value), "rmse": float(np.sqrt(squares / len(with_value)))}


def _predict_pairs(
    model: Predictor, users_P: Codes, events: Events, index_P: NDArray[np.int64], use_times: bool
) -> Scores:
    """Predict the values ``(P,)`` of known users for the events ``index_P``.

    Times are passed on only where they are real.
    """
    predicted_P = np.empty(len(index_P), np.float32)
    has_time_P = events.time_known[index_P] & use_times
    if events.times is not None and has_time_P.any():
        timed = index_P[has_time_P]
        predicted_P[has_time_P] = model.predict(users_P[has_time_P], events.items[timed], events.times[timed])
    if not has_time_P.all():
        predicted_P[~has_time_P] = model.predict(users_P[~has_time_P], events.items[index_P[~has_time_P]], None)
    return predicted_P


def _predict_unknown_users(model: Predictor, queries: Queries, rows_T: NDArray[np.int64], items_T: Codes) -> Scores:
    """Predict the values of unknown users from their histories.

    ``rows_T`` must ascend.
    """
    predicted_T = np.empty(len(rows_T), np.float32)
    start = 0
    for block, scores_RI in score_blocks(model, queries):
        own = slice(*np.searchsorted(rows_T, (start, start + len(block))))
        predicted_T[own] = scores_RI[rows_T[own] - start, items_T[own]]
        start += len(block)
    return model.clip_predictions(predicted_T)


def rmse(errors: PredictionErrors) -> Values:
    """Compute the root mean squared error over all targets."""
    total, deviation = _delta_method_values(errors, np.square(errors.errors))
    root = np.sqrt(total)
    values: Values = root + deviation / (2.0 * root if root > 0 else 1.0)
    return values


def mae(errors: PredictionErrors) -> Values:
    """Compute the mean absolute error over all targets."""
    total, deviation = _delta_method_values(errors, np.abs(errors.errors))
    return total + deviation


def rmse_by_user(errors: PredictionErrors) -> Values:
    """Compute the root mean squared error of each user, all counting equally."""
    return np.sqrt(_mean_of_query(errors, np.square(errors.errors)))


def mae_by_user(errors: PredictionErrors) -> Values:
    """Compute the mean absolute error of each user, all counting equally."""
    return _mean_of_query(errors, np.abs(errors.errors))


def rmse_by_item(errors: PredictionErrors) -> Values:
    """Compute the root mean squared error of each item, averaged over items."""
    return _jackknife_values(errors, np.square(errors.errors), np.sqrt)


def mae_by_item(errors: PredictionErrors) -> Values:
    """Compute the mean absolute error of each item, averaged over items."""
    return _jackknife_values(errors, np.abs(errors.errors), np.asarray)


def _mean_of_query(errors: PredictionErrors, losses_T: Values) -> Values:
    """Return the mean loss of each query; NaN where it has no target with a value."""
    counts = np.bincount(errors.rows, minlength=errors.queries)
    sums = np.bincount(errors.rows, losses_T, minlength=errors.queries)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _jackknife_values(errors: PredictionErrors, losses_T: Values, finish: Callable[[Values], Values]) -> Values:
    """Return the mean error of the items, plus the contribution of each query.

    The error of an item is ``finish(mean loss)``.

    Without a query, the items that only this query rated are left out of the mean, and the loss of its other items is
    that of the other queries.
    """
    n_items = 1 + int(errors.items.max(initial=0))
    keys_P, pair_T = np.unique(errors.rows * n_items + errors.items, return_inverse=True)
    rows_P, items_P = np.divmod(keys_P, n_items)
    count_P, loss_P = np.bincount(pair_T), np.bincount(pair_T, losses_T)
    count_I = np.bincount(items_P, count_P, n_items)
    loss_I = np.bincount(items_P, loss_P, n_items)
    error_I = finish(loss_I / np.maximum(count_I, 1))
    others_P = count_I[items_P] - count_P
    # rounding may leave a loss just below 0
    without_P = finish(np.maximum(loss_I[items_P] - loss_P, 0.0) / np.maximum(others_P, 1)) * (others_P > 0)
    total, n_rated = error_I.sum(), np.count_nonzero(count_I)
    total_N = total + np.bincount(rows_P, without_P - error_I[items_P], errors.queries)
    rated_N = n_rated - np.bincount(rows_P[others_P == 0], minlength=errors.queries)
    values = np.full(errors.queries, np.nan)
    has_value = np.bincount(errors.rows, minlength=errors.queries) > 0
    without_N = (total_N / np.maximum(rated_N, 1))[has_value]
    values[has_value] = total / n_rated + (len(without_N) - 1) * (without_N.mean() - without_N)
    return values


def _delta_method_values(errors: PredictionErrors, losses_T: Values) -> tuple[float, Values]:
    """Return the mean loss, and each query's deviation from it.

    The deviation is by how much the query moves the mean, times the number of queries.

    NaN where a query has no target with a value.
    """
    counts = np.bincount(errors.rows, minlength=errors.queries)
    has_value = counts > 0
    mean = float(losses_T.mean())
    deviations = np.full(errors.queries, np.nan)
    sums = np.bincount(errors.rows, losses_T, minlength=errors.queries)[has_value]
    deviations[has_value] = (sums - mean * counts[has_value]) / counts[has_value].mean()
    return mean, deviations
