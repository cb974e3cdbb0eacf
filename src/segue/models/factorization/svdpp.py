"""SVD++: biased matrix factorization with implicit feedback.

Koren 2008, doi:10.1145/1401890.1401944.

A rating is ``mean + b_u + b_i + q_i . (p_u + |N|^-1/2 sum_{j in N} y_j)``, where N is the set of all items of the user,
rated or not: a history without values is also informative. Without the sum (``implicit=false``) it is the biased
factorization known as Funk's SVD. The model is trained by stochastic gradient descent, one rating at a time, as in the
paper; :mod:`segue.solvers.sgd` explains why the sum costs little.

Shapes: U users, I items, N queries, T events, D dimensions without the bias, B with it.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le

from segue.core.config import Search, Settings
from segue.core.model import StateArrays, Validate
from segue.core.model_arrays import load_array
from segue.core.ratings import collect_ratings, rated_events
from segue.core.run import Run
from segue.core.types import DataSchema, Dataset, Events, Scores
from segue.solvers.biased_factor_model import BiasedFactorModel, pair_products
from segue.solvers.ridge import solve_rows
from segue.solvers.sgd import sgd_epoch
from segue.solvers.standardize import standardize, unstandardize
from segue.solvers.training_iterations import run_iterations

__all__ = ["SVDpp"]

INITIAL_STD = 0.1
"""Standard deviation of the initial factors, with ratings of standard deviation 1."""


class SVDpp(BiasedFactorModel):
    """Learn biases and factors by gradient descent.

    Unknown users are folded in from their items and ratings.
    """

    class Config(Settings):
        """Settings of ``svdpp``."""

        embedding_dim: Annotated[int, Ge(1), Search(16, 128, log=True)] = 100
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1)] = 60
        """Number of passes over the ratings."""
        learning_rate: Annotated[float, Gt(0), Search(3e-3, 0.05, log=True)] = 0.015
        """Step size of the first pass, for values scaled to standard deviation 1."""
        learning_rate_decay: Annotated[float, Gt(0), Le(1)] = 0.97
        """Factor by which the step size is multiplied after each pass."""
        l2: Annotated[float, Ge(0), Search(0.02, 0.3, log=True)] = 0.09
        """L2 regularization of factors, for each rating."""
        l2_bias: Annotated[float, Ge(0)] = 0.01
        """L2 regularization of biases, for each rating."""
        implicit: bool = True
        """Use the set of the user's items, rated or not, in addition to the ratings."""
        clip_predictions: bool = False
        """Clip predictions to the range of the training ratings."""

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self.extra_arrays["std"] = np.ones(1, np.float32)
        if config.implicit:
            self.extra_arrays["implicit_items"] = np.zeros((schema.n_items, config.embedding_dim), np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the training error, with each error before its update.

        Raises:
            ValueError: no event has a value, or training diverged.
        """
        config, ratings = self.config, collect_ratings(train, "svdpp")
        mean, std, targets_T = standardize(ratings.values)
        value_range = float(ratings.values.min()), float(ratings.values.max())
        seen_offsets, seen = np.zeros(train.n_users + 1, np.int64), np.zeros(0, np.int32)
        if config.implicit:
            seen_UI = train.histories.csr(train.n_items)
            seen_offsets, seen = seen_UI.indptr.astype(np.int64), seen_UI.indices.astype(np.int32)
        rng = run.rng("init")
        state = {
            "users": INITIAL_STD * rng.standard_normal((train.n_users, config.embedding_dim + 1), np.float32),
            "items": INITIAL_STD * rng.standard_normal((train.n_items, config.embedding_dim + 1), np.float32),
            "implicit_items": np.zeros((train.n_items, config.embedding_dim), np.float32),
        }
        state["users"][:, 0], state["items"][:, 0] = 0.0, 0.0

        def step(iteration: int) -> dict[str, float]:
            total = sgd_epoch(
                ratings.offsets,
                ratings.items,
                targets_T,
                seen_offsets,
                seen,
                *state.values(),
                step=config.learning_rate * config.learning_rate_decay**iteration,
                l2=config.l2,
                l2_bias=config.l2_bias,
                rng=run.rng(f"sweep/{iteration}"),
            )
            if not np.isfinite(total):
                raise ValueError(f"svdpp: training diverged in iteration {iteration + 1}; use a smaller learning_rate")
            error = total / len(targets_T)
            return {"loss": error, "train/rmse": float(np.sqrt(error)) * std}

        def restore(arrays: StateArrays) -> None:
            state.update(
                {name: load_array(arrays, name, array.shape, np.float32).copy() for name, array in state.items()}
            )

        def publish() -> None:
            users_UB, items_IB = (unstandardize(state[name], std) for name in ("users", "items"))
            self.extra_arrays["std"] = np.array([std], np.float32)
            if config.implicit:
                self.extra_arrays["implicit_items"] = np.float32(np.sqrt(std)) * state["implicit_items"]
                users_UB[:, 1:] += self._implicit_factors(train.histories)
            self._set_factors(mean, users_UB, items_IB, value_range)

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=lambda: state,
            restore=restore,
            model=self,
            validate=validate,
            publish=publish,
        )
        # known users get the same factors as unknown users with the same history
        self._set_factors(mean, self.fold_in(train.histories), self.items_ID, value_range)

    def _implicit_factors(self, history: Events) -> Scores:
        """Compute the ``(N, D)`` sum over the items of each history."""
        seen_NI = history.csr(self.schema.n_items)
        lengths_N = np.maximum(np.diff(seen_NI.indptr), 1).astype(np.float32)
        implicit_ND: Scores = (seen_NI @ self.extra_arrays["implicit_items"]) / np.sqrt(lengths_N)[:, None]
        return implicit_ND

    def fold_in(self, history: Events) -> Scores:
        """Fit bias and factors to the values by ridge regression.

        The sum over the items of the history is given.
        """
        known = rated_events(history)
        assert known.values is not None
        residuals_T = known.values - self.mean - self.items_ID[known.items, 0]
        implicit_ND = np.zeros((len(history), self.config.embedding_dim), np.float32)
        if self.config.implicit:
            implicit_ND = self._implicit_factors(history)
            residuals_T -= pair_products(implicit_ND, self.items_ID[:, 1:], known.rows.astype(np.int32), known.items)
        rows_NB, _ = solve_rows(
            known.offsets,
            known.items,
            np.ones(known.size, np.float32),
            residuals_T,
            self._vectors_ID,
            ridge_D=self._ridge(),
            ridge_R=np.maximum(known.lengths, 1).astype(np.float32),
        )
        rows_NB[:, 1:] += implicit_ND
        return rows_NB

    def _ridge(self) -> Scores:
        """Return the ``(B,)`` regularization in the scale of the data."""
        ridge_B = np.full(self.config.embedding_dim + 1, self.config.l2 * self.extra_arrays["std"][0], np.float32)
        ridge_B[0] = self.config.l2_bias
        return np.maximum(ridge_B, np.float32(1e-6))
