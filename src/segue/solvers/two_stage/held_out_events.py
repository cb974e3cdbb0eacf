"""Hold events out for the second of two stages, and validate on some of them.

Shapes: U users, N queries, T examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.fields import Examples
from segue.core.model import Validate
from segue.core.types import Codes, Dataset, Events, Queries, Scores

__all__ = ["HeldOutEvents", "choose_weight", "divide_queries", "hold_out", "make_query_validator", "mean_ndcg"]

VALIDATION_SHARE = 0.1
"""Share of the queries on whose candidates the best epoch of the ranker is chosen."""

WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Weights that :func:`choose_weight` compares; with the last, hardly anything but the retriever counts."""


@dataclass(frozen=True, eq=False)
class HeldOutEvents:
    """Events that were held out, each with the query before it."""

    earlier: Events
    """All other events, U rows."""
    queries: Queries
    events: NDArray[np.int64]
    """``(N,)`` index in the log."""
    targets: Codes
    """``(N,)`` item of the event."""
    later: Events
    """Held-out events of the same user after it, N rows."""
    weights: Scores | None = None
    """``(N,)``; ``None``: all are 1."""


def hold_out(train: Dataset, count: int, max_queries: int, rng: np.random.Generator) -> HeldOutEvents:
    """Hold out the last events of users, but never their first.

    Where the log has a target action, the last events with this action; all events after them are left out, too.
    """
    histories = train.histories
    rows_T, firsts_U, lengths_U = histories.rows, histories.offsets[:-1], histories.lengths
    is_target_T = np.ones(len(rows_T), np.bool_)
    if train.target is not None and histories.actions is not None:
        is_target_T = np.equal(histories.actions, train.target)
    is_target_T[firsts_U[lengths_U > 0]] = False
    counts_U = np.bincount(rows_T[is_target_T], minlength=len(lengths_U))
    users = rng.permutation(np.flatnonzero(counts_U))[: max(1, max_queries // count)]
    is_drawn_U = np.isin(np.arange(len(lengths_U)), users)
    numbers_T = np.cumsum(is_target_T)  # of target events in the whole log, from 1
    is_last_T = numbers_T > np.cumsum(counts_U)[rows_T] - count
    events_N = np.flatnonzero(is_target_T & is_last_T & is_drawn_U[rows_T])
    users_N = rows_T[events_N]
    positions_N = events_N - firsts_U[users_N]
    kept_U = lengths_U.copy()
    np.minimum.at(kept_U, users_N, positions_N)
    own = histories.take(users_N)
    before = own.slice_rows(np.zeros_like(positions_N), positions_N)
    queries = Queries.of_users(users_N.astype(np.int32), before)
    context = {name: column[events_N] for name, column in histories.context.items() if name != "time_known"}
    return HeldOutEvents(
        histories.slice_rows(np.zeros_like(lengths_U), kept_U),
        replace(queries, context=context),
        events_N,
        histories.items[events_N],
        own.slice_rows(positions_N + 1, own.lengths),
    )


def divide_queries(examples: Examples, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """Divide examples by query for learning and for choosing the best epoch.

    With a single query both parts are equal.
    """
    assert examples.users is not None
    groups = np.unique(examples.users)
    n_check = min(len(groups) - 1, int(np.ceil(VALIDATION_SHARE * len(groups))))
    if not n_check:
        return examples, examples
    is_check_T = np.isin(examples.users, rng.permutation(groups)[:n_check])
    return examples.take(np.flatnonzero(~is_check_T)), examples.take(np.flatnonzero(is_check_T))


def make_query_validator(examples: Examples) -> Validate:
    """Return a function that computes the mean NDCG@10 of the candidates.

    See :func:`mean_ndcg`.
    """

    def validate(model: Any) -> Mapping[str, float]:
        return {"ndcg@10": mean_ndcg(examples, model.predict_logits(examples))}

    return validate


def mean_ndcg(examples: Examples, logits_T: Scores) -> float:
    """Return the mean NDCG@10 of candidates in the order of their logits.

    It has the weights of the queries. Each query has one target, which is the last of candidates with equal logits.
    """
    labels, groups = examples.labels, examples.users
    assert labels is not None
    assert groups is not None
    weights = np.ones(len(labels)) if examples.weights is None else examples.weights
    order = np.lexsort((labels, -logits_T, groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    ranks_T = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    gains_T = np.where(ranks_T < 10, labels[order] / np.log2(ranks_T + 2), 0.0)
    return float(np.average(np.add.reduceat(gains_T, starts), weights=weights[order][starts]))


def choose_weight(examples: Examples, logits_T: Scores, scores_T: Scores) -> float:
    """Choose the weight of the retriever's scores in the sum with the logits.

    It has the best NDCG@10, and is the smallest of equally good ones.

    Args:
        scores_T: standardized over the candidates of each query.
    """
    return max(WEIGHTS, key=lambda weight: mean_ndcg(examples, logits_T + weight * scores_T))
