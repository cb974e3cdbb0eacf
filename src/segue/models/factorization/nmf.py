"""NMF: factors that are never below zero, so that a person is a mixture of parts (Lee and Seung 2001, NIPS 13).

From events, the table X of who had what, all else zero, is told as ``P Q'`` with the least squared error:

    |X - P Q'|²  +  l2 (sum_u n_u |p_u|² + sum_i n_i |q_i|²)

with n the number of events or 1; from values the error is of the observed ratings alone (Zhang et al. 2006,
doi:10.1137/1.9781611972764.58). Users and items take turns, by coordinate descent (Cichocki and Phan 2009) or by
multiplicative updates, each of which makes the objective no larger. Nothing is taken away from anything: what a factor
stands for can be read off its greatest items.

Shapes: U users, I items, N queries, C candidates, T events, D width.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.ratings import Ratings, ratings_of, valued
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.biased_factor_model import cosine_likeness, pair_products
from segue.solvers.history_matrix import weighed
from segue.solvers.nonnegative_updates import improve_filled, improve_observed
from segue.solvers.ridge import gram
from segue.solvers.training_iterations import sweeps

__all__ = ["NMF"]

PASSES, TOLERANCE = 200, 1e-4
"""Of folding in: passes at most, and the move that no longer counts."""


class NMF(Solver):
    """Non-negative factors; everybody is folded in from his history, known or not."""

    class Config(Settings):
        """Settings of ``nmf``."""

        width: Annotated[int, Ge(1)] = 64
        """Parts: factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 50
        """Times that all users and then all items are made better."""
        learns: Literal["events", "values"] = "events"
        """What happened, to rank; or values such as ratings, to predict them."""
        weights: Literal["binary", "values"] = "binary"
        """What an event weighs where events are learned: 1, or its value, which is never below zero."""
        solver: Literal["coordinate", "multiplicative"] = "coordinate"
        """One dimension after the other, or all by ratios as first published, which takes many times the sweeps."""
        l2: Annotated[float, Ge(0)] = 0.1
        """Ridge of the factors."""
        weighted: bool = True
        """Whether a row's ridge grows with its number of events."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest value of the training data."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        users_UD = np.zeros((domain.n_users, config.width), np.float32)
        items_ID = np.zeros((domain.n_items, config.width), np.float32)
        self._keep(users_UD, items_ID, np.zeros(config.width, np.float32), (0.0, 0.0))

    def _keep(self, users_UD: Scores, items_ID: Scores, newcomer_D: Scores, limits: tuple[float, float]) -> None:
        """Take what was learned; the Gram matrix, which every question needs, follows from it."""
        self.users_UD, self.items_ID, self.newcomer_D = users_UD, items_ID, newcomer_D
        self.limits = np.asarray(limits, np.float32)
        self._gram_DD = gram(items_ID)

    @property
    def predicts(self) -> bool:
        """Whether it learned values."""
        return bool(self.config.learns == "values")

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sweep; each sweep's objective goes into the run's history.

        Raises:
            ValueError: values are asked for, and there are none, or one is below zero.
        """
        config, rng = self.config, run.rng("init")
        limits, problem = self._problem(train)
        size = np.sqrt(problem.mean / config.width)
        users_UD, items_ID = (
            (size * np.abs(rng.standard_normal((count, config.width)))).astype(np.float32)
            for count in (train.n_users, train.n_items)
        )

        def once(sweep: int) -> dict[str, float]:
            nonlocal users_UD, items_ID
            users_UD = problem.users(users_UD, items_ID)
            items_ID, told = problem.items(users_UD, items_ID)
            return told

        def restore(arrays: Arrays) -> None:
            nonlocal users_UD, items_ID
            users_UD = take_back(arrays, "users", users_UD.shape, np.float32)
            items_ID = take_back(arrays, "items", items_ID.shape, np.float32)

        def show() -> None:
            shown_ID = items_ID
            if self.predicts:  # what nobody rated is as all else is on average
                shown_ID = np.where(problem.items_I[:, None], items_ID, items_ID[problem.items_I].mean(axis=0))
            self._keep(users_UD, shown_ID, users_UD[problem.users_U].mean(axis=0), limits)
            self._keep(self.fold_in(train.histories), shown_ID, self.newcomer_D, limits)

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=lambda: {"users": users_UD, "items": items_ID},
            restore=restore,
            model=self,
            validate=validate,
            validate_every=config.sweeps,
            show=show,
        )

    def _problem(self, train: Dataset) -> tuple[tuple[float, float], _Filled | _Observed]:
        """The limits of the values, where they count, and what is to be made least."""
        config = self.config
        if not self.predicts and config.weights == "binary":
            return (0.0, 0.0), _Filled(weighed(train.histories, train.n_items, "binary"), config)
        ratings = ratings_of(train, f"nmf of {'values' if self.predicts else 'weights=values'}")
        limits = float(ratings.values.min()), float(ratings.values.max())
        if limits[0] < 0:
            raise ValueError(f"nmf: got an event of value {limits[0]:g}, expected none below 0")
        if self.predicts:
            return limits, _Observed(ratings, config)
        return limits, _Filled(weighed(train.histories, train.n_items, "values"), config)

    def fold_in(self, history: Events) -> Scores:
        """``(N, D)`` the best factors for each history, given the items'; the newcomer's where it says nothing."""
        if self.predicts:
            known = valued(history)
            assert known.values is not None
            start_ND, ridge_N = np.tile(self.newcomer_D, (len(history), 1)), _ridge(known.lengths, self.config)
            numbers = known.offsets, known.items, known.values, self.items_ID, start_ND
            return improve_observed(*numbers, ridge_R=ridge_N, passes=PASSES, tolerance=TOLERANCE)[0]
        table_NI = weighed(history, self.domain.n_items, self.config.weights)
        lengths_N = np.diff(table_NI.indptr)
        start_ND, ridge_N = np.tile(self.newcomer_D, (len(history), 1)), _ridge(lengths_N, self.config)
        sides_ND = np.asarray(table_NI @ self.items_ID)
        rows_ND = improve_filled(sides_ND, self._gram_DD, start_ND, ridge_R=ridge_N, passes=PASSES, tolerance=TOLERANCE)
        silent = ~rows_ND.any(axis=1)
        rows_ND[silent] = self.newcomer_D
        return rows_ND

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The best factors for each history; of a known user who tells nothing now, as in training."""
        rows_ND = self.fold_in(queries.history)
        told = valued(queries.history) if self.predicts or self.config.weights == "values" else queries.history
        silent = queries.known & (told.lengths == 0)
        rows_ND[silent] = self.users_UD[queries.users[silent]]
        return rows_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)``"""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` zeros."""
        return np.zeros(self.domain.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """What the table is told to hold, never below zero; the predicted value where values are learned."""
        return pick_candidates(self.encode(queries) @ self.items_ID.T, candidates)

    def predict(self, users: Codes, items: Codes, times: NDArray[np.int64] | None = None) -> Scores:
        """See :meth:`segue.core.model.Predictor.predict`.

        Raises:
            ValueError: events were learned, not values.
        """
        if not self.predicts:
            raise ValueError("nmf.learns: got 'events', expected 'values' of a model that predicts them")
        found = pair_products(self.users_UD, self.items_ID, users, items)
        return self.in_scale(found)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return np.clip(scores, *self.limits) if self.config.clip else scores

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' factors."""
        return cosine_likeness(self.items_ID, items)

    def arrays(self) -> Arrays:
        """Factors of users, of items and of who tells nothing, and the limits of the values."""
        return {"users": self.users_UD, "items": self.items_ID, "newcomer": self.newcomer_D, "limits": self.limits}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.width
        users_UD = take_back(arrays, "users", (self.domain.n_users, width), np.float32)
        items_ID = take_back(arrays, "items", (self.domain.n_items, width), np.float32)
        low, high = take_back(arrays, "limits", (2,), np.float32)
        self._keep(users_UD, items_ID, take_back(arrays, "newcomer", (width,), np.float32), (low, high))


class _Filled:
    """Every cell of the table counts."""

    def __init__(self, table_UI: csr_array[Any], config: NMF.Config) -> None:
        self.table_UI, self.table_IU = table_UI, csr_array(table_UI.T)
        self.multiply = config.solver == "multiplicative"
        counts_U, counts_I = np.diff(table_UI.indptr), np.diff(self.table_IU.indptr)
        self.users_U, self.items_I = counts_U > 0, counts_I > 0
        self.ridge_U, self.ridge_I = _ridge(counts_U, config), _ridge(counts_I, config)
        self.squares = _squares(table_UI.data)
        self.mean = float(table_UI.sum(dtype=np.float64)) / max(1, table_UI.shape[0] * table_UI.shape[1])

    def users(self, users_UD: Scores, items_ID: Scores) -> Scores:
        """Better users, given the items."""
        sides_UD = self.table_UI @ items_ID
        return improve_filled(sides_UD, gram(items_ID), users_UD, ridge_R=self.ridge_U, multiply=self.multiply)

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """Better items, given the users; and the objective of both."""
        sides_ID, gram_DD = self.table_IU @ users_UD, gram(users_UD)
        items_ID = improve_filled(sides_ID, gram_DD, items_ID, ridge_R=self.ridge_I, multiply=self.multiply)
        product = float(np.einsum("id,id->", items_ID, sides_ID, dtype=np.float64))
        square = float(np.einsum("ab,ab->", gram(items_ID), gram_DD, dtype=np.float64))
        pull = float(self.ridge_U @ _rows_squared(users_UD) + self.ridge_I @ _rows_squared(items_ID))
        return items_ID, {"loss": self.squares - 2 * product + square + pull}


class _Observed:
    """Only the cells that were observed count."""

    def __init__(self, ratings: Ratings, config: NMF.Config) -> None:
        self.ratings, self.multiply = ratings, config.solver == "multiplicative"
        self.by_item = ratings.users[ratings.order], ratings.values[ratings.order]
        self.users_U, self.items_I = ratings.counts > 0, ratings.item_counts > 0
        self.ridge_U, self.ridge_I = _ridge(ratings.counts, config), _ridge(ratings.item_counts, config)
        self.mean = max(float(ratings.values.mean(dtype=np.float64)), np.finfo(np.float32).tiny)

    def users(self, users_UD: Scores, items_ID: Scores) -> Scores:
        """Better users, given the items."""
        it = self.ratings
        numbers = it.offsets, it.items, it.values, items_ID, users_UD
        return improve_observed(*numbers, ridge_R=self.ridge_U, multiply=self.multiply)[0]

    def items(self, users_UD: Scores, items_ID: Scores) -> tuple[Scores, dict[str, float]]:
        """Better items, given the users; and the objective of both, with its mean squared error's root."""
        numbers = self.ratings.item_offsets, *self.by_item, users_UD, items_ID
        items_ID, squares_I = improve_observed(*numbers, ridge_R=self.ridge_I, multiply=self.multiply)
        total = float(squares_I.sum(dtype=np.float64))
        seen = (
            (self.ridge_U * self.users_U) @ _rows_squared(users_UD),
            (self.ridge_I * self.items_I) @ _rows_squared(items_ID),
        )
        return items_ID, {"loss": total + float(sum(seen)), "train/rmse": float(np.sqrt(total / len(self.by_item[0])))}


def _ridge(counts_R: NDArray[np.integer[Any]], config: NMF.Config) -> Scores:
    """``(R,)`` the ridge of rows with so many events."""
    scale_R = np.maximum(counts_R, 1) if config.weighted else np.ones(len(counts_R))
    return (config.l2 * scale_R).astype(np.float32)


def _squares(values: NDArray[Any]) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _rows_squared(rows_RD: Scores) -> NDArray[np.float64]:
    squares_R: NDArray[np.float64] = np.square(rows_RD, dtype=np.float64).sum(axis=1)
    return squares_R
