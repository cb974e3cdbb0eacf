"""Golden queries: questions with the answers of the trained model, which whatever runs it must rank as it does.

Two items may stand the other way round only where the trained model's own scores for them differ by at most
``TOLERANCE`` of the spread of its scores (the best less the worst of the catalogue): that is rounding, in which the
products of two libraries differ, and no opinion of the model.

Shapes: N queries, k places that are compared, r places that are kept.
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

__all__ = ["PLACES", "TOLERANCE", "Golden", "askers", "check"]

PLACES = 10
"""Places that must agree."""

KEPT = 30
"""Places that are kept: what stands just behind may come forward by rounding."""

TOLERANCE = 1e-5
"""Difference of two scores, as a share of the spread of all, up to which their order means nothing."""

LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)
"""Newest events of a person that are asked with, beside all."""

LONGEST = 1_000
"""Events of a golden history at most."""

DTYPES: Mapping[str, Any] = {"actions": np.uint8, "values": np.float32, "times": np.int64}


@dataclass(frozen=True, eq=False)
class Golden:
    """Questions, and how the trained model answers them."""

    queries: Queries
    answers: Recommendations
    """``(N, r)`` the best items without those of the history."""
    spread_N: NDArray[np.float64]
    """Of each query, the best less the worst score of what may be recommended."""

    def __len__(self) -> int:
        return len(self.queries)

    @classmethod
    def of(cls, model: Recommender, queries: Queries) -> Self:
        """The answers of ``model``."""
        parts, spread = [], []
        for block, scores_RI in score_blocks(model, queries):
            exclude(scores_RI, block.history)
            left_RI = np.isfinite(scores_RI)
            best_R = scores_RI.max(axis=1, initial=-np.inf)
            worst_R = scores_RI.min(axis=1, initial=np.inf, where=left_RI)
            spread.append(np.where(left_RI.any(axis=1), best_R.astype(np.float64) - worst_R, 0.0))
            parts.append(top_k(scores_RI, KEPT))
        return cls(queries, Recommendations.joined(parts, KEPT), np.concatenate([np.zeros(0), *spread]))

    def to_json(self) -> dict[str, Any]:
        """As it stands in a file."""
        history, users = self.queries.history, self.queries
        told = []
        for n in range(len(self)):
            own, count = history.block(n, n + 1), int(self.answers.lengths[n])
            columns = {name: _listed(column) for name, column in own.columns().items()}
            told.append({
                "user": int(users.users[n]) if users.known[n] else None,
                "time": None if users.times is None else int(users.times[n]),
                "history": columns,
                "items": self.answers.items[n, :count].tolist(),
                "scores": self.answers.scores[n, :count].tolist(),
                "spread": float(self.spread_N[n]),
            })  # fmt: skip
        return {"queries": told}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What :meth:`to_json` gave."""
        told = value["queries"]
        offsets = np.concatenate([[0], np.cumsum([len(one["history"]["items"]) for one in told])])
        names = [name for name in COLUMNS if told and name in told[0]["history"]]
        columns: dict[str, Any] = {name: np.concatenate([_column(one, name) for one in told]) for name in names}
        items = np.concatenate([np.zeros(0, np.int32), *(np.array(one["history"]["items"], np.int32) for one in told)])
        known = np.array([one["user"] is not None for one in told], np.bool_)
        users = np.array([one["user"] or 0 for one in told], np.int32)
        timed = bool(told) and told[0]["time"] is not None
        times = np.array([one["time"] for one in told], np.int64) if timed else None
        width = max((len(one["items"]) for one in told), default=0)
        ranked, scores = np.zeros((len(told), width), np.int32), np.zeros((len(told), width), np.float32)
        lengths = np.array([len(one["items"]) for one in told], np.int64)
        there = np.arange(width) < lengths[:, None]
        ranked[there] = [item for one in told for item in one["items"]]
        scores[there] = [score for one in told for score in one["scores"]]
        queries = Queries(Events(offsets, items, **columns), users, known, times)
        spread = np.array([one["spread"] for one in told], np.float64)
        return cls(queries, Recommendations(ranked, scores, lengths), spread)


def _listed(column: NDArray[Any]) -> list[Any]:
    return [None if isinstance(value, float) and value != value else value for value in column.tolist()]


def _column(one: Any, name: str) -> NDArray[Any]:
    values = one["history"][name]
    return np.array([np.nan if value is None else value for value in values] if name == "values" else values,
                    DTYPES[name])  # fmt: skip


def askers(histories: Events | None, n_items: int, count: int) -> Queries:
    """``count`` questions of several lengths, always the same: nobody known and nothing told, one item, the longest
    history, and of people spread evenly over all their newest events; without histories, made-up ones."""
    rng = np.random.default_rng(0)
    if histories is None or histories.size == 0:
        rows = [rng.integers(0, n_items, LENGTHS[n % len(LENGTHS)]).tolist() for n in range(max(count - 2, 0))]
        return Queries.anonymous(Events.of([[], [int(rng.integers(n_items))], *rows]))
    lengths = histories.lengths
    longest = int(lengths.argmax())
    others = np.resize(rng.permutation(np.flatnonzero(lengths)), max(count - 3, 0))
    people = np.concatenate([[longest] * 3, others])
    wanted = np.array([*LENGTHS, LONGEST])[np.arange(len(people)) % (len(LENGTHS) + 1)]
    wanted[:3] = 0, 1, LONGEST
    history = histories.take(people)
    read = np.minimum(history.lengths, wanted)
    known = np.ones(len(people), np.bool_)
    known[:2] = False
    return Queries(history.cut(history.lengths - read, history.lengths), people.astype(np.int32), known)


def check(expected: Golden, model: Recommender) -> list[str]:
    """What ``model`` ranks otherwise than the trained model, one line for each query; empty if nothing.

    Only the first ``PLACES`` are compared; see above for what may differ.
    """
    faults = []
    found = Golden.of(model, expected.queries)
    for n in range(len(expected)):
        there, here = _list(expected.answers, n), _list(found.answers, n)
        if not _same(*there, here[0][:PLACES], TOLERANCE * float(expected.spread_N[n])):
            ranked, rightly = here[0][:PLACES].tolist(), there[0][:PLACES].tolist()
            length = int(expected.queries.history.lengths[n])
            faults.append(
                f"golden query {n}, a history of {length} events: ranked {ranked}, the trained model {rightly}"
            )
    return faults


def _same(items: Codes, scores: Scores, found: Codes, allowed: float) -> bool:
    """Whether ``found`` is the begin of the ranking ``items``, but for what rounding may do."""
    if len(found) != min(PLACES, len(items)):
        return False
    of = dict(zip(items.tolist(), scores.tolist(), strict=True))
    # what was not kept is no better than the last that was: as good as the right one, if that one is
    beyond = scores[-1] if len(items) == KEPT else np.inf
    pairs = zip(items.tolist(), found.tolist(), strict=False)
    return all(abs(of[right] - of.get(item, beyond)) <= allowed for right, item in pairs)


def _list(answers: Recommendations, n: int) -> tuple[Codes, Scores]:
    count = int(answers.lengths[n])
    return answers.items[n, :count], answers.scores[n, :count]
