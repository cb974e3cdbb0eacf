"""Golden queries: recorded rankings that every engine must reproduce.

Two items may swap only if the trained model's own scores for them differ by at most ``TOLERANCE`` of its score range
(best minus worst score of the catalog): such differences are rounding errors between numerical libraries.

Shapes: N queries, k compared items, r stored items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.recommend import exclude, score_blocks, top_k
from segue.core.types import Codes, Events, Queries, Recommendations, Scores
from segue.serving.engines.input_columns import COLUMNS

__all__ = [
    "CHECKED_K",
    "MIN_QUERIES",
    "TOLERANCE",
    "GoldenQueries",
    "check_coverage",
    "check_rankings",
    "check_reproduction",
    "sample_queries",
]

CHECKED_K = 10
"""Top items that must agree."""

STORED_K = 30
"""Top items that are stored: rounding may move an item from just behind ``CHECKED_K`` to the front."""

TOLERANCE = 1e-5
"""Largest difference between two scores, relative to the score range, at which their order is arbitrary."""

SCORE_TOLERANCE = 1e-3
"""Largest difference between a recorded and a computed score, relative to the score range."""

MAGNITUDE_TOLERANCE = 1e-4
"""The same, relative to the greatest absolute score: rounding errors grow with it."""

MIN_QUERIES = 8
"""Minimum number of golden queries: fewer could miss a damaged model."""

MIN_DISTINCT_QUERIES = 3
"""Minimum number of different golden queries; a log of a single event has no more."""

HISTORY_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)
"""History lengths of golden queries, in addition to the full history."""

MAX_HISTORY = 1_000
"""Maximum number of events of a golden history."""

DTYPES: Mapping[str, Any] = {"actions": np.uint8, "values": np.float32, "times": np.int64}


@dataclass(frozen=True, eq=False)
class GoldenQueries:
    """Queries and the trained model's recommendations for them."""

    queries: Queries
    recommendations: Recommendations
    """``(N, r)`` the best items without those of the history."""
    score_range_N: NDArray[np.float64]
    """For each query, the best minus the worst score among unseen items."""

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def from_model(cls, model: Recommender, queries: Queries) -> Self:
        """Record the recommendations of ``model``."""
        parts, ranges = [], []
        for block, scores_RI in score_blocks(model, queries):
            exclude(scores_RI, block.history)
            unseen_RI = np.isfinite(scores_RI)
            best_R = scores_RI.max(axis=1, initial=-np.inf)
            worst_R = scores_RI.min(axis=1, initial=np.inf, where=unseen_RI)
            ranges.append(np.where(unseen_RI.any(axis=1), best_R.astype(np.float64) - worst_R, 0.0))
            parts.append(top_k(scores_RI, STORED_K))
        return cls(queries, Recommendations.concat(parts, STORED_K), np.concatenate([np.zeros(0), *ranges]))

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON values."""
        history, queries = self.queries.history, self.queries
        records = []
        for n in range(len(self)):
            row, count = history.rows_between(n, n + 1), int(self.recommendations.lengths[n])
            columns = {name: _to_json_values(column) for name, column in row.columns().items()}
            records.append({
                "user": int(queries.users[n]) if queries.known[n] else None,
                "time": None if queries.times is None else int(queries.times[n]),
                "history": columns,
                "items": self.recommendations.items[n, :count].tolist(),
                "scores": self.recommendations.scores[n, :count].tolist(),
                "score_range": float(self.score_range_N[n]),
            })  # fmt: skip
        return {"queries": records}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Restore the queries from the values that :meth:`to_json` returned.

        Raises:
            ValueError: the values are malformed.
        """
        try:
            return cls._from_records(value["queries"])
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"golden queries: malformed: {type(error).__name__}: {error}") from None

    @classmethod
    def _from_records(cls, records: Any) -> Self:
        for one in records:
            numbers = [one["user"] or 0, one["time"] or 0, *one["history"]["items"], *one["items"]]
            if not all(type(number) is int for number in numbers):
                raise ValueError("users, times and items must be integers")
        offsets = np.concatenate([[0], np.cumsum([len(one["history"]["items"]) for one in records])])
        names = [name for name in COLUMNS if records and name in records[0]["history"]]
        columns: dict[str, Any] = {name: np.concatenate([_read_column(one, name) for one in records]) for name in names}
        items = np.concatenate(
            [np.zeros(0, np.int32), *(np.array(one["history"]["items"], np.int32) for one in records)]
        )
        known = np.array([one["user"] is not None for one in records], np.bool_)
        users = np.array([one["user"] or 0 for one in records], np.int32)
        has_times = bool(records) and records[0]["time"] is not None
        times = np.array([one["time"] for one in records], np.int64) if has_times else None
        max_length = max((len(one["items"]) for one in records), default=0)
        items_NR = np.zeros((len(records), max_length), np.int32)
        scores_NR = np.zeros((len(records), max_length), np.float32)
        lengths = np.array([len(one["items"]) for one in records], np.int64)
        is_stored = np.arange(max_length) < lengths[:, None]
        items_NR[is_stored] = [item for one in records for item in one["items"]]
        scores_NR[is_stored] = [score for one in records for score in one["scores"]]
        queries = Queries(Events(offsets, items, **columns), users, known, times)
        ranges = np.array([one["score_range"] for one in records], np.float64)
        return cls(queries, Recommendations(items_NR, scores_NR, lengths), ranges)


def _to_json_values(column: NDArray[Any]) -> list[Any]:
    return [None if isinstance(value, float) and value != value else value for value in column.tolist()]


def _read_column(one: Any, name: str) -> NDArray[Any]:
    values = one["history"][name]
    return np.array([np.nan if value is None else value for value in values] if name == "values" else values,
                    DTYPES[name])  # fmt: skip


def sample_queries(histories: Events | None, n_items: int, count: int) -> Queries:
    """Sample ``count`` queries of several lengths, deterministically.

    They are an unknown user without a history, a history of one item, the longest history, and known users with
    histories of all lengths. Without ``histories``, items are drawn at random.
    """
    rng = np.random.default_rng(0)
    if histories is None or histories.size == 0:
        sizes = [HISTORY_LENGTHS[n % len(HISTORY_LENGTHS)] for n in range(max(count - 2, 0))]
        rows = [rng.integers(0, n_items, size).tolist() for size in sizes]
        return Queries.anonymous(Events.of([[], [int(rng.integers(n_items))], *rows]))
    lengths = histories.lengths
    longest = int(lengths.argmax())
    sampled = np.resize(rng.permutation(np.flatnonzero(lengths)), max(count - 3, 0))
    users = np.concatenate([[longest] * 3, sampled])
    limits = np.array([*HISTORY_LENGTHS, MAX_HISTORY])[np.arange(len(users)) % (len(HISTORY_LENGTHS) + 1)]
    limits[:3] = 0, 1, MAX_HISTORY
    history = histories.take(users)
    counts = np.minimum(history.lengths, limits)
    known = np.ones(len(users), np.bool_)
    known[:2] = False
    return Queries(history.slice_rows(history.lengths - counts, history.lengths), users.astype(np.int32), known)


def check_coverage(expected: GoldenQueries, n_users: int, n_items: int, histories: Events | None = None) -> None:
    """Check that golden queries can detect a damaged model.

    Args:
        histories: one row per user; ``None``: the queries were not made from histories.

    Raises:
        ValueError: there are too few queries, or too few different ones; a query has users or items that the model does
            not have, or a history that its user does not have; or its ranking is incomplete or impossible.
    """
    queries, history = expected.queries, expected.queries.history
    if len(expected) < MIN_QUERIES:
        raise ValueError(f"golden queries: got {len(expected)}, expected at least {MIN_QUERIES}")
    rows = [history.items[start:stop].tobytes() for start, stop in pairwise(history.offsets.tolist())]
    users = np.where(queries.known, queries.users, -1).tolist()
    if (n_distinct := len(set(zip(users, rows, strict=True)))) < MIN_DISTINCT_QUERIES or not history.size:
        raise ValueError(
            f"golden queries: got {n_distinct} different ones with {history.size} events, expected at least "
            f"{MIN_DISTINCT_QUERIES} with at least one event"
        )
    if not ((queries.users >= 0) & (queries.users < max(n_users, 1))).all() or (n_users == 0 and queries.known.any()):
        raise ValueError(f"golden queries: a user is out of range, expected 0 to {n_users - 1}")
    for name, codes in (("history", history.items), ("ranking", expected.recommendations.items)):
        if codes.size and not 0 <= int(codes.min()) <= int(codes.max()) < n_items:
            raise ValueError(f"golden queries: an item of a {name} is out of range, expected 0 to {n_items - 1}")
    for n in range(len(expected)):
        items, scores = _ranking(expected.recommendations, n)
        seen = set(history.items[history.offsets[n] : history.offsets[n + 1]].tolist())
        if len(items) != min(STORED_K, n_items - len(seen)) or len({*items.tolist(), *seen}) != len(items) + len(seen):
            raise ValueError(
                f"golden query {n}: ranks {len(items)} items, expected {min(STORED_K, n_items - len(seen))} different "
                "ones that are not in the history"
            )
        if histories is not None and queries.known[n]:
            user = histories.rows_between(int(queries.users[n]), int(queries.users[n]) + 1).items
            events = history.items[history.offsets[n] : history.offsets[n + 1]]
            if not np.array_equal(user[len(user) - len(events) :], events):
                raise ValueError(f"golden query {n}: its history is not that of user {queries.users[n]}")
        score_range = expected.score_range_N[n]
        if not (np.isfinite(scores).all() and np.isfinite(score_range)) or (np.diff(scores) > 0).any():
            raise ValueError(f"golden query {n}: scores must be finite, and the best must be first")


def check_rankings(expected: GoldenQueries, model: Recommender) -> list[str]:
    """Compare the rankings of ``model`` with the recorded ones.

    Returns:
        One line per query whose first ``CHECKED_K`` items differ by more than rounding; see the module documentation.
    """
    return _compare_rankings(expected, GoldenQueries.from_model(model, expected.queries))


def check_reproduction(expected: GoldenQueries, model: Recommender) -> list[str]:
    """Compare the rankings and the scores of ``model`` with the recorded ones.

    Equal rankings are not sufficient: records in which all scores are equal, or the score range is too large, would
    match any model.

    Returns:
        One line per query that differs; see :func:`check_rankings`.
    """
    actual = GoldenQueries.from_model(model, expected.queries)
    if errors := _compare_rankings(expected, actual):
        return errors
    for n in range(len(expected)):
        score_of = dict(zip(*(part.tolist() for part in _ranking(expected.recommendations, n)), strict=True))
        found = dict(zip(*(part.tolist() for part in _ranking(actual.recommendations, n)), strict=True))
        magnitude = max((abs(score) for score in found.values()), default=0.0)
        limit = SCORE_TOLERANCE * float(actual.score_range_N[n]) + MAGNITUDE_TOLERANCE * magnitude
        differences = [abs(score_of[item] - found[item]) for item in score_of.keys() & found.keys()]
        differences.append(abs(float(expected.score_range_N[n] - actual.score_range_N[n])))
        if not max(differences) <= limit:
            errors.append(f"golden query {n}: a score or the score range differs by {max(differences):.3g}")
    return errors


def _compare_rankings(expected: GoldenQueries, actual: GoldenQueries) -> list[str]:
    errors = []
    for n in range(len(expected)):
        items, scores = _ranking(expected.recommendations, n)
        found = _ranking(actual.recommendations, n)[0][:CHECKED_K]
        if not _same_order(items, scores, found, TOLERANCE * float(expected.score_range_N[n])):
            actual_items, expected_items = found.tolist(), items[:CHECKED_K].tolist()
            length = int(expected.queries.history.lengths[n])
            errors.append(
                f"golden query {n} (history of {length} events): ranked {actual_items}, expected {expected_items}"
            )
    return errors


def _same_order(items: Codes, scores: Scores, found: Codes, allowed: float) -> bool:
    """Return whether ``found`` is the start of the ranking ``items``, up to rounding."""
    if len(found) != min(CHECKED_K, len(items)):
        return False
    score_of = dict(zip(items.tolist(), scores.tolist(), strict=True))
    # an item that was not stored scores at most as much as the last stored one
    score_below = scores[-1] if len(items) == STORED_K else np.inf
    pairs = zip(items.tolist(), found.tolist(), strict=False)
    return all(abs(score_of[wanted] - score_of.get(item, score_below)) <= allowed for wanted, item in pairs)


def _ranking(recommendations: Recommendations, n: int) -> tuple[Codes, Scores]:
    count = int(recommendations.lengths[n])
    return recommendations.items[n, :count], recommendations.scores[n, :count]
