"""Apply a target policy to a log: what it would have shown with which probability.

Shapes: T impressions, Q queries, K positions, R rows of one block, C candidates, S shown cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.bundle import TrainedModel
from segue.core.examples.list_policies import plackett_luce, top_k
from segue.core.messages import arg
from segue.core.recommend import exclude, score_blocks
from segue.core.types import Events, Queries, Scores
from segue.experiment.inference.argument_checks import describe_value
from segue.experiment.inference.code_mapping import list_ids
from segue.experiment.inference.queries import build_queries
from segue.experiment.off_policy.candidates import CandidateSets, CandidateTable
from segue.experiment.off_policy.impressions import (
    TOLERANCE,
    LoggedImpressions,
    read_by_position,
    read_probabilities,
)
from segue.experiment.records.saved_models import open as open_model

__all__ = ["ModelPolicySettings", "TargetPolicy", "apply_policy"]

MAX_SHOWN = 50_000_000
"""Cells of a query, a candidate and a position that a policy may show, at most, for predictions of their rewards."""

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TargetPolicy:
    """Probabilities with which a policy shows items."""

    name: str
    logged_T: Numbers
    """Probability of the item of each impression at its position."""
    logged_TK: Numbers | None
    """The same at each position; ``None``: not known."""
    mass_QK: Numbers
    """Probability that the policy shows any item at a position: less than 1 where it has too few candidates."""
    shown: ShownCells | None
    """All that the policy may show; ``None``: not known or not needed."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class ShownCells:
    """All cells of query, candidate and position that a policy may show."""

    query_S: Codes
    candidate_S: Codes
    """Numbers of candidates of all queries, see :attr:`CandidateSets.codes`."""
    position_S: Codes
    probability_S: Numbers


@dataclass(frozen=True)
class ModelPolicySettings:
    """How a model becomes a policy."""

    temperature: float | None = None
    """Temperature of the softmax over the scores of the candidates; ``None``: the best items in order."""
    exclude_seen: bool = True
    """Whether items of the user's history are not shown."""
    data: Any = None
    """The log with the histories of the users; ``None``: that on which the model was trained."""


def apply_policy(
    policy: Any,
    name: str,
    impressions: LoggedImpressions,
    candidates: CandidateSets | None,
    table: CandidateTable | None,
    settings: ModelPolicySettings,
    *,
    needs_shown: bool,
) -> TargetPolicy:
    """Apply a policy to a log.

    Args:
        policy: a trained model, the name or folder of one, or the name of a column with probabilities.
        name: argument that messages name.
        candidates: what a model chooses from; ``None``: all items of the log.
        table: the table of candidates, if there is one.
        needs_shown: whether all that the policy may show is needed.

    Raises:
        ValueError: there is no such model or column, or the column has other values than probabilities.
    """
    if isinstance(policy, str) and policy in impressions.table.columns:
        if _is_model(policy):
            raise ValueError(
                f"{arg(name)}: '{policy}' is a column of {impressions.table.name} and a run or folder; give the path "
                f"of the folder, such as ./{policy}, or rename the column"
            )
        return _read_policy(policy, impressions, table, needs_shown=needs_shown)
    if isinstance(policy, TrainedModel):
        trained = policy
    elif isinstance(policy, str | Path) and str(policy):
        try:
            trained = open_model(policy)
        except ValueError as error:
            raise ValueError(
                f"{arg(name)}: {error}; '{policy}' is no column of {impressions.table.name} either, whose columns are "
                f"{', '.join(impressions.table.columns)}"
            ) from None
    else:
        raise ValueError(
            f"{arg(name)}: got {describe_value(policy)}, expected a trained model, the name or folder of one, or the "
            "name of a column with probabilities"
        )
    own = CandidateSets.of_log(impressions) if candidates is None else candidates
    found = _apply_model(trained, impressions, own, settings, needs_shown=needs_shown)
    return found if isinstance(policy, TrainedModel) else replace(found, name=str(policy))


def _is_model(text: str) -> bool:
    try:
        open_model(text)
    except ValueError:
        return False
    return True


def _read_policy(
    column: str, impressions: LoggedImpressions, table: CandidateTable | None, *, needs_shown: bool
) -> TargetPolicy:
    """Read the probabilities of a policy from columns."""
    log = impressions.table
    with log.located():
        logged_T = read_probabilities(log.frame, column)
        logged_TK = read_by_position(log.frame, column, impressions.positions)
    shown = None
    if needs_shown:
        if table is None:
            raise ValueError(
                f"{arg('candidates')}: got none, but the estimators dm and dr need the probabilities '{column}' of all "
                "candidates; give a table of them, or other estimators"
            )
        probability_X = table.numbers(column, are_probabilities=True)
        query_X, candidate_X, position_X = table.cells(impressions, column)
        totals_QK = np.zeros((impressions.n_queries, len(impressions.positions)))
        np.add.at(totals_QK, (query_X, position_X), probability_X)
        if (totals_QK > 1 + TOLERANCE).any():
            query = int(np.argmax(totals_QK.max(1)))
            raise ValueError(
                f"{arg('candidates')}: {table.table.name}: '{column}' of query '{impressions.query_ids[query]}' sums "
                f"to {totals_QK[query].max():g} at a position, expected at most 1"
            )
        is_shown = probability_X > 0
        shown = ShownCells(query_X[is_shown], candidate_X[is_shown], position_X[is_shown], probability_X[is_shown])
        expected_T = _at_impressions(impressions, table.candidates, shown)
        if (is_other_T := np.abs(expected_T - logged_T) > TOLERANCE).any():
            row = int(np.argmax(is_other_T))
            raise ValueError(
                f"{log.location.describe_row(row)}, column '{column}': got {logged_T[row]:g}, but {expected_T[row]:g} "
                f"in {table.table.name}, expected the same"
            )
    mass_QK = np.ones((impressions.n_queries, len(impressions.positions)))
    return TargetPolicy(f"column '{column}'", logged_T, logged_TK, mass_QK, shown)


def _at_impressions(impressions: LoggedImpressions, candidates: CandidateSets, shown: ShownCells) -> Numbers:
    """Return the probability of each impression, ``(T,)``."""
    n_positions = len(impressions.positions)
    keys_S = shown.candidate_S * n_positions + shown.position_S
    order = np.argsort(keys_S)
    keys_T = candidates.find(impressions.query_T, impressions.item_T) * n_positions + impressions.position_T
    if not len(order):
        return np.zeros(len(keys_T))
    found_T = order[np.minimum(np.searchsorted(keys_S, keys_T, sorter=order), len(order) - 1)]
    return np.where(keys_S[found_T] == keys_T, shown.probability_S[found_T], 0.0)


def _apply_model(
    trained: TrainedModel,
    impressions: LoggedImpressions,
    candidates: CandidateSets,
    settings: ModelPolicySettings,
    *,
    needs_shown: bool,
) -> TargetPolicy:
    queries, notes = _build_queries(trained, impressions, settings.data)
    codes_L, known_L = trained.items.encode(candidates.items)
    if not known_L.any():
        raise ValueError(
            f"policy: none of the {len(candidates.items):,} candidates is in the catalog of '{trained.key}', such as "
            f"'{candidates.items[0]}'"
        )
    if not known_L.all():
        unknown = candidates.items.filter(~known_L).to_list()
        notes.append(f"candidates that '{trained.key}' does not know and never shows: {list_ids(unknown)}")
    n_positions = len(impressions.positions)
    ranks = impressions.positions - 1
    depth = int(ranks.max()) + 1
    column_T = candidates.find(impressions.query_T, impressions.item_T) - candidates.offsets[impressions.query_T]
    by_query = np.argsort(impressions.query_T, kind="stable")
    rows_Q = np.searchsorted(impressions.query_T[by_query], np.arange(len(queries) + 1))
    logged_TK, mass_QK = np.zeros((len(column_T), n_positions)), np.zeros((len(queries), n_positions))
    cells: list[tuple[Codes, ...]] = []
    probabilities: list[Numbers] = []
    start = 0
    for block, scores_RI in score_blocks(trained.model, queries):
        if settings.exclude_seen:
            exclude(scores_RI, block.history)
        stop = start + len(block)
        scores_RC = _candidate_scores(scores_RI, candidates, codes_L, known_L, start)
        shown_RCK = _probabilities(settings.temperature)(scores_RC, depth)[:, :, ranks]
        rows = by_query[rows_Q[start] : rows_Q[stop]]
        logged_TK[rows] = shown_RCK[impressions.query_T[rows] - start, column_T[rows]]
        mass_QK[start:stop] = shown_RCK.sum(1)
        if needs_shown:
            query, column, position = np.nonzero(shown_RCK)
            cells.append((query + start, candidates.offsets[query + start] + column, position))
            probabilities.append(shown_RCK[query, column, position])
            if (count := sum(map(len, probabilities))) > MAX_SHOWN:
                raise ValueError(
                    f"{arg('candidates')}: the policy may show more than {count:,} items at a position, expected at "
                    f"most {MAX_SHOWN:,} for dm and dr; give fewer candidates, or other estimators"
                )
        start = stop
    shown = None
    if needs_shown:
        query_S, candidate_S, position_S = (np.concatenate(part) for part in zip(*cells, strict=True))
        shown = ShownCells(query_S, candidate_S, position_S, np.concatenate(probabilities))
    logged_T = logged_TK[np.arange(len(column_T)), impressions.position_T]
    return TargetPolicy(trained.key, logged_T, logged_TK, mass_QK, shown, tuple(notes))


def _probabilities(temperature: float | None) -> Callable[[Scores, int], Numbers]:
    if temperature is None:
        return top_k
    return lambda scores_RC, k: plackett_luce(scores_RC, k, temperature)


def _candidate_scores(
    scores_RI: Scores, candidates: CandidateSets, codes_L: NDArray[Any], known_L: NDArray[np.bool_], start: int
) -> Scores:
    """Return the scores of the candidates of a block of queries, ``(R, C)``.

    They are minus infinity where there is none.
    """
    offsets = candidates.offsets[start : start + len(scores_RI) + 1]
    lengths_R = np.diff(offsets)
    rows = np.repeat(np.arange(len(lengths_R)), lengths_R)
    columns = np.arange(offsets[-1] - offsets[0]) - np.repeat(offsets[:-1] - offsets[0], lengths_R)
    own = candidates.codes[offsets[0] : offsets[-1]]
    scores_RC = np.full((len(scores_RI), int(lengths_R.max())), -np.inf, np.float32)
    scores_RC[rows, columns] = np.where(known_L[own], scores_RI[rows, codes_L[own]], -np.inf)
    return scores_RC


def _build_queries(trained: TrainedModel, impressions: LoggedImpressions, data: Any) -> tuple[Queries, list[str]]:
    """Return the query of the model for each query of the log, and notes.

    With times, a history ends before the query.
    """
    if impressions.user_Q is None:
        empty = Queries.anonymous(Events.of([[]] * impressions.n_queries))
        return empty, ["the log has no column of users: the model answers as for new users without a history"]
    users = impressions.user_Q.unique(maintain_order=True)
    batch = build_queries(trained, users.to_list(), data=trained.train_log if data is None else data)
    places = {user: place for place, user in enumerate(users)}
    queries = batch.queries.take(np.array([places[user] for user in impressions.user_Q], np.int64))
    history, times_Q = queries.history, impressions.time_Q
    if times_Q is None:
        return queries, batch.messages
    notes = [*batch.messages, *_note_early_queries(trained, times_Q)]
    if history.times is not None:
        history = history.where(history.times < times_Q[history.rows])
    return replace(queries, history=history, times=times_Q), notes


def _note_early_queries(trained: TrainedModel, times_Q: NDArray[np.int64]) -> list[str]:
    """Return a note if the model was trained on events after the queries.

    Nothing is known without its log.
    """
    try:
        times = trained.train_log.histories.times
    except ValueError:
        return []
    early = 0 if times is None or not len(times) else int((times_Q <= times.max()).sum())
    if not early:
        return []
    return [
        f"{early:,} of {len(times_Q):,} queries are not later than the last event that '{trained.key}' was trained on: "
        "it may know what was chosen, and its value may be too high"
    ]
