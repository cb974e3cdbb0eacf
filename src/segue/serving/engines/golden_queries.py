"""Golden queries: recorded rankings that every engine must reproduce.

Two items may swap only if the trained model's own scores for them differ by at most ``TOLERANCE`` of its score range
(best minus worst score of the catalog): such differences are rounding errors between numerical libraries.

Shapes: N queries, k compared items, r stored items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segue.core.model import Recommender
from segue.core.recommend import exclude, score_blocks, top_k
from segue.core.types import Codes, Events, Queries, Recommendations, Scores
from segue.serving.engines.input_columns import COLUMNS

__all__ = ["CHECKED_K", "TOLERANCE", "GoldenQueries", "check_rankings", "sample_queries"]

CHECKED_K = 10
"""Top items that must agree."""

STORED_K = 30
"""Top items that are stored: rounding may move an item from just behind ``CHECKED_K`` to the front."""

TOLERANCE = 1e-5
"""Largest difference between two scores, relative to the score range, at which their order is arbitrary."""

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
        """Restore the queries from the values that :meth:`to_json` returned."""
        records = value["queries"]
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


def check_rankings(expected: GoldenQueries, model: Recommender) -> list[str]:
    """Compare the rankings of ``model`` with the recorded ones.

    Returns:
        One line per query whose first ``CHECKED_K`` items differ by more than rounding; see the module documentation.
    """
    errors = []
    actual = GoldenQueries.from_model(model, expected.queries)
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
