"""Predict rewards for the direct method and the doubly robust estimator.

A click-through model is cross-fitted: the rewards of a query, or of all queries of a user, are predicted by a model
that was trained without them (Chernozhukov et al. 2018, doi:10.1111/ectj.12097).

Shapes: T impressions, Q queries, S cells that a policy may show, X rows of a table of candidates.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.examples.click_model import ClickModel
from segue.core.examples.columns import CellError
from segue.core.messages import QualityWarning, arg
from segue.data.examples.table import ExampleTable
from segue.data.raw_log import SourceLocation
from segue.experiment.clicks.click_plan import make_click_plan
from segue.experiment.clicks.train_click_model import train_click_model
from segue.experiment.off_policy.candidates import CandidateSets, CandidateTable
from segue.experiment.off_policy.impressions import LoggedImpressions, read_column
from segue.experiment.off_policy.target_policy import ShownCells

__all__ = ["PredictedRewards", "check_reward_model", "cross_fit", "read_predictions"]

ITEM_PREFIX, QUERY_PREFIXES = "item.", ("user.", "context.")
"""Prefixes of columns of features, as in :func:`segue.derive_examples`."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PredictedRewards:
    """Predicted rewards of impressions, and of what policies show."""

    logged_T: Numbers
    expected: tuple[Numbers, ...]
    """By policy the predicted reward of each query, ``(Q,)``."""
    notes: tuple[str, ...] = ()


def check_reward_model(key: str) -> None:
    """Check that a key is that of a click-through model.

    Raises:
        ValueError: it is not.
    """
    try:
        make_click_plan({"model": key, "data": ""}, [])
    except ValueError as error:
        raise ValueError(f"{arg('reward_model')}: {error}") from None


def read_predictions(
    column: str, impressions: LoggedImpressions, table: CandidateTable | None, policies: Sequence[ShownCells]
) -> PredictedRewards:
    """Read predictions from a column of the log and of the table of candidates.

    Raises:
        ValueError: the table has no such column, or a candidate that a policy shows has no prediction.
    """
    log = impressions.table
    if table is None:
        raise ValueError(
            f"{arg('candidates')}: got none, but the predictions '{column}' of all candidates are needed; give a table"
        )
    with log.located():
        logged_T = read_column(log.frame, column, "a predicted reward")
    prediction_X = table.numbers(column)
    _, candidate_X, position_X = table.cells(impressions, column)
    n_positions = len(impressions.positions)
    by_cell = np.full((len(table.candidates.codes), n_positions), np.nan)
    by_cell[candidate_X, position_X] = prediction_X
    expected = []
    for shown in policies:
        prediction_S = by_cell[shown.candidate_S, shown.position_S]
        if (is_missing_S := np.isnan(prediction_S)).any():
            first = int(np.argmax(is_missing_S))
            item = table.candidates.items[int(table.candidates.codes[shown.candidate_S[first]])]
            position = impressions.positions[shown.position_S[first]]
            raise ValueError(
                f"{arg('candidates')}: {table.table.name}: no row of query "
                f"'{impressions.query_ids[int(shown.query_S[first])]}', item '{item}' at position {position}, "
                f"expected '{column}' of all that the policy shows"
            )
        expected.append(_sum_by_query(shown, prediction_S, impressions.n_queries))
    return PredictedRewards(logged_T, tuple(expected))


def cross_fit(
    key: str,
    impressions: LoggedImpressions,
    candidates: CandidateSets,
    policies: Sequence[ShownCells],
    *,
    folds: int = 3,
    seed: int = 0,
) -> PredictedRewards:
    """Predict rewards by a click-through model that is trained on the other folds.

    The model reads the item, the position, and the columns with the prefixes ``item.``, ``user.`` and ``context.``. It
    does not read the user, as all impressions of a user are in one fold.

    Args:
        key: of the model, such as ``logistic_regression`` or ``gradient_boosting``.
        folds: number of parts of the queries, or of the users.

    Raises:
        ValueError: rewards are not 0 and 1, a feature of an item or a query is not constant, or there are fewer
            queries than folds.
    """
    impressions.check_binary(f"'{key}' predicts clicks; give predictions for other rewards")
    unit_Q = impressions.units
    unit_Q = np.arange(impressions.n_queries) if unit_Q is None else np.unique(unit_Q, return_inverse=True)[1]
    n_units = int(unit_Q.max()) + 1
    if not 2 <= folds <= n_units:
        noun = "queries" if impressions.user_Q is None else "users"
        raise ValueError(f"{arg('folds')}: got {folds}, expected 2 to the number of {noun}, {n_units:,}")
    fold_Q = (np.random.default_rng(seed).permutation(n_units) % folds)[unit_Q]
    features = _Features(impressions)
    logged = features.logged()
    logged_T = np.empty(len(logged))
    predictions = [np.empty(len(shown.query_S)) for shown in policies]
    for fold in range(folds):
        is_held_out_T = fold_Q[impressions.query_T] == fold
        model = _train(key, features, logged.filter(pl.Series(~is_held_out_T)), seed)
        logged_T[is_held_out_T] = model.predict(logged.filter(pl.Series(is_held_out_T)))
        for shown, prediction_S in zip(policies, predictions, strict=True):
            rows = np.flatnonzero(fold_Q[shown.query_S] == fold)
            if len(rows):
                prediction_S[rows] = model.predict(features.shown(candidates, shown, rows))
    expected = [
        _sum_by_query(shown, prediction_S, impressions.n_queries)
        for shown, prediction_S in zip(policies, predictions, strict=True)
    ]
    return PredictedRewards(logged_T, tuple(expected), features.notes)


def _train(key: str, features: _Features, rows: pl.DataFrame, seed: int) -> ClickModel:
    kinds = dict.fromkeys((name for name in ("item", "position") if name in rows.columns), "category")
    overrides = [f"run.seed={seed}", "examples.label=reward", f"columns={json.dumps(kinds)}"]
    plan = make_click_plan({"model": key, "data": features.name}, overrides)
    table = ExampleTable(rows, SourceLocation(f"impressions of {features.name}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QualityWarning)  # there are no validation rows
        return train_click_model(plan, table)


def _sum_by_query(shown: ShownCells, prediction_S: Numbers, n_queries: int) -> Numbers:
    sums_Q = np.bincount(shown.query_S, weights=shown.probability_S * prediction_S, minlength=n_queries)
    return sums_Q.astype(np.float64)


class _Features:
    """Columns that the model of rewards reads."""

    def __init__(self, impressions: LoggedImpressions) -> None:
        self.impressions, frame = impressions, impressions.table.frame
        self.name = impressions.table.name
        self.of_items = [name for name in frame.columns if name.startswith(ITEM_PREFIX)]
        self.of_queries = [name for name in frame.columns if name.startswith(QUERY_PREFIXES)]
        first_Q = impressions.first_rows
        self._check(self.of_queries, pl.Series(impressions.query_T), "query")
        self.queries = frame[first_Q].select(pl.Series("query", np.arange(len(first_Q))), *self.of_queries)
        self._check(self.of_items, impressions.item_T, "item")
        self.items = frame.select(impressions.item_T.alias("item"), *self.of_items).unique("item", keep="first")
        known = {*impressions.columns.values(), *self.of_items, *self.of_queries}
        by_position = f"{impressions.columns['propensity']}_"
        left_out = [name for name in frame.columns if name not in known and not name.startswith(by_position)]
        self.notes: tuple[str, ...] = ()
        if left_out:
            self.notes = (
                f"the model of rewards does not read {', '.join(map(repr, left_out))}: features have the prefixes "
                f"{ITEM_PREFIX}, {' and '.join(QUERY_PREFIXES)}",
            )

    def _check(self, names: Sequence[str], key_T: pl.Series, what: str) -> None:
        """Check that features have one value per item or query.

        Raises:
            ValueError: names the first row with another one.
        """
        key = key_T.rank("dense").to_numpy().astype(np.int64) - 1
        first_T = np.unique(key, return_index=True)[1][key]
        frame = self.impressions.table.frame
        for name in names:
            is_other_T = frame[name].ne_missing(frame[name].gather(first_T)).to_numpy()
            if is_other_T.any():
                with self.impressions.table.located():
                    raise CellError(
                        name, int(np.argmax(is_other_T)), f"another value than in earlier rows of its {what}"
                    )

    def logged(self) -> pl.DataFrame:
        """Return the rows of the log with their rewards."""
        given = self.impressions
        rows = self._rows(given.query_T, given.item_T, given.position_T)
        return rows.with_columns(reward=pl.Series(given.reward_T.astype(np.int64)))

    def shown(self, candidates: CandidateSets, shown: ShownCells, rows: NDArray[np.int64]) -> pl.DataFrame:
        """Return rows of what a policy shows."""
        items = candidates.items.gather(candidates.codes[shown.candidate_S[rows]])
        return self._rows(shown.query_S[rows], items, shown.position_S[rows])

    def _rows(self, query: NDArray[np.int64], items: pl.Series, position: NDArray[np.int64]) -> pl.DataFrame:
        found = self.queries[query].with_columns(item=items).drop("query")
        found = found.join(self.items, "item", "left", maintain_order="left")
        if len(self.impressions.positions) > 1:
            found = found.with_columns(position=pl.Series(self.impressions.positions[position]))
        return found
