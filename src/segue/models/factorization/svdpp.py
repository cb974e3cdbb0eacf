"""SVD++: biased factorisation that also learns from what was rated at all (Koren 2008, doi:10.1145/1401890.1401944).

A rating is ``mean + b_u + b_i + q_i . (p_u + |N|^-1/2 sum_{j in N} y_j)`` with N the items that the person has, with a
value or without: a history of events alone already tells something of the person. Without the sum it is the biased
factorisation known as Funk's SVD (``implicit=false``). Learned by stochastic gradient descent, one rating after the
other, as the paper says; :mod:`segue.solvers.sgd` says why the sum costs next to nothing.

Shapes: U users, I items, N queries, T events, D width without the bias, B with it.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le

from segue.core.config import Settings
from segue.core.model import Arrays, Validate
from segue.core.model_arrays import take_back
from segue.core.ratings import ratings_of, valued
from segue.core.run import Run
from segue.core.types import Dataset, Domain, Events, Scores
from segue.solvers.biased_factor_model import RatingFactors, pair_products
from segue.solvers.ridge import solve_rows
from segue.solvers.sgd import descend
from segue.solvers.standardize import in_units, standardised
from segue.solvers.training_iterations import sweeps

__all__ = ["SVDpp"]

SPREAD = 0.1
"""Standard deviation of the factors at the start, in that of the ratings."""


class SVDpp(RatingFactors):
    """Factors by gradient descent; a new person is known by his items, and better by his ratings."""

    class Config(Settings):
        """Settings of ``svdpp``."""

        width: Annotated[int, Ge(1)] = 100
        """Factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 60
        """Passes over the ratings."""
        learning_rate: Annotated[float, Gt(0)] = 0.015
        """Step of the first pass, where values are in units of their standard deviation."""
        decay: Annotated[float, Gt(0), Le(1)] = 0.97
        """What the step is multiplied by after each pass."""
        l2: Annotated[float, Ge(0)] = 0.09
        """Ridge of the factors, for each rating that reads them."""
        l2_bias: Annotated[float, Ge(0)] = 0.01
        """Ridge of the biases, likewise."""
        implicit: bool = True
        """Whether the items that a person has tell of him, whatever their ratings."""
        clip: bool = False
        """Whether predictions stay within the lowest and the highest rating of the training data."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self.more["spread"] = np.ones(1, np.float32)
        if config.implicit:
            self.more["implied"] = np.zeros((domain.n_items, config.width), np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Pass by pass; the root of the mean squared error, each as its rating was met, goes into the run's history.

        Raises:
            ValueError: no event has a value, or the steps led out of all bounds.
        """
        config, ratings = self.config, ratings_of(train, "svdpp")
        mean, spread, targets_T = standardised(ratings.values)
        limits = float(ratings.values.min()), float(ratings.values.max())
        seen_offsets, seen = np.zeros(train.n_users + 1, np.int64), np.zeros(0, np.int32)
        if config.implicit:
            table = train.histories.csr(train.n_items)
            seen_offsets, seen = table.indptr.astype(np.int64), table.indices.astype(np.int32)
        rng = run.rng("init")
        state = {
            "users": SPREAD * rng.standard_normal((train.n_users, config.width + 1), np.float32),
            "items": SPREAD * rng.standard_normal((train.n_items, config.width + 1), np.float32),
            "implied": np.zeros((train.n_items, config.width), np.float32),
        }
        state["users"][:, 0], state["items"][:, 0] = 0.0, 0.0

        def once(sweep: int) -> dict[str, float]:
            total = descend(
                ratings.offsets,
                ratings.items,
                targets_T,
                seen_offsets,
                seen,
                *state.values(),
                step=config.learning_rate * config.decay**sweep,
                l2=config.l2,
                l2_bias=config.l2_bias,
                rng=run.rng(f"sweep/{sweep}"),
            )
            if not np.isfinite(total):
                raise ValueError(f"svdpp: the errors of sweep {sweep + 1} have no end; try a lower learning_rate")
            error = total / len(targets_T)
            return {"loss": error, "train/rmse": float(np.sqrt(error)) * spread}

        def restore(arrays: Arrays) -> None:
            state.update({name: take_back(arrays, name, now.shape, np.float32).copy() for name, now in state.items()})

        def show() -> None:
            users_UB, items_IB = (in_units(state[name], spread) for name in ("users", "items"))
            self.more["spread"] = np.array([spread], np.float32)
            if config.implicit:
                self.more["implied"] = np.float32(np.sqrt(spread)) * state["implied"]
                users_UB[:, 1:] += self._implied(train.histories)
            self._keep(mean, users_UB, items_IB, limits)

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=lambda: state,
            restore=restore,
            model=self,
            validate=validate,
            show=show,
        )
        # users as they are folded in: who was there in training is answered like anyone with his history
        self._keep(mean, self.fold_in(train.histories), self.items_ID, limits)

    def _implied(self, history: Events) -> Scores:
        """``(N, D)`` what having the items of each history tells."""
        had_NI = history.csr(self.domain.n_items)
        lengths_N = np.maximum(np.diff(had_NI.indptr), 1).astype(np.float32)
        implied_ND: Scores = (had_NI @ self.more["implied"]) / np.sqrt(lengths_N)[:, None]
        return implied_ND

    def fold_in(self, history: Events) -> Scores:
        """What his items tell, and on top of it the best bias and factors for his values: a ridge regression."""
        known = valued(history)
        assert known.values is not None
        sides_T = known.values - self.mean - self.items_ID[known.items, 0]
        implied_ND = np.zeros((len(history), self.config.width), np.float32)
        if self.config.implicit:
            implied_ND = self._implied(history)
            sides_T -= pair_products(implied_ND, self.items_ID[:, 1:], known.rows.astype(np.int32), known.items)
        rows_NB, _ = solve_rows(
            known.offsets,
            known.items,
            np.ones(known.size, np.float32),
            sides_T,
            self._vectors_ID,
            ridge_D=self._ridge(),
            ridge_R=np.maximum(known.lengths, 1).astype(np.float32),
        )
        rows_NB[:, 1:] += implied_ND
        return rows_NB

    def _ridge(self) -> Scores:
        """``(B,)`` what the ridge of training is in the scale of the data."""
        ridge_B = np.full(self.config.width + 1, self.config.l2 * self.more["spread"][0], np.float32)
        ridge_B[0] = self.config.l2_bias
        return np.maximum(ridge_B, np.float32(1e-6))
