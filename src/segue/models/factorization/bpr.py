"""BPR: matrix factorization by Bayesian personalized ranking.

Rendle et al. 2009, arXiv:1205.2618. A score is ``p_u . q_i + b_i``. For each event, an item that the user has not seen
is sampled, and the seen item should score higher: the loss is ``-ln sigma(x)``, with x the difference of the scores. An
iteration is a pass over all events in random order, with a plain gradient step for each triplet, as in the paper, or an
Adam step for each batch. Training uses one thread, so that results are reproducible.

Unknown users are folded in with the items fixed. The objective is that of training, in expectation over all items as
negatives. A quadratic bound of ``-ln sigma(x)`` (Jaakkola and Jordan 2000, doi:10.1023/A:1008932416310) turns it into a
ridge regression, whose solution determines the next bound.

Shapes: U users, I items, N queries, C candidates, D dimensions, R users and items, T events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Choices, Search, Settings
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity, pair_products
from segue.solvers.bpr_sgd import bpr_adam_epoch, bpr_sgd_epoch
from segue.solvers.ridge import gram, solve_rows
from segue.solvers.training_iterations import run_iterations
from segue.solvers.triplet_sampling import TripletSampler

__all__ = ["BPR"]

MIN_FOLD_IN_L2 = 0.01
"""Minimum regularization when folding in: unlike training, an exact solution has no early stopping."""
PRIOR_EVENTS = 10.0
"""Weight of the mean of all users when folding in, in number of events."""
FOLD_IN_ITERATIONS = 4
"""Number of times that the quadratic bound is updated."""


class BPR(Solver):
    """Pairwise matrix factorization.

    Known users keep their trained factors; other users are folded in.
    """

    class Config(Settings):
        """Settings of ``bpr``."""

        embedding_dim: Annotated[int, Ge(1), Choices((32, 64, 128))] = 64
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1), Choices((30, 60, 100))] = 30
        """Number of passes over all events, each with new negatives."""
        optimizer: Literal["adam", "sgd"] = "adam"
        """``adam``: one step per batch. ``sgd``: one step per triplet, which is faster but needs more iterations."""
        batch_size: Annotated[int, Ge(1)] = 512
        """Number of triplets of an Adam step."""
        learning_rate: Annotated[float, Gt(0), Search(3e-4, 0.03, log=True)] = 1e-3
        """Step size; about 0.001 for ``adam``, 0.02 for ``sgd``."""
        l2: Annotated[float, Ge(0), Search(1e-4, 0.1, log=True)] = 0.01
        """L2 regularization of factors, for each triplet."""
        l2_bias: Annotated[float, Ge(0)] = 0.01
        """L2 regularization of item biases, for each triplet."""
        item_bias: bool = True
        """Include item biases."""
        sampler_alpha: Annotated[float, Ge(0)] = 0.0
        """Exponent of item counts in the distribution of negatives; 0: uniform."""

        @model_validator(mode="after")
        def _check_batch_size(self) -> BPR.Config:
            if self.optimizer == "sgd" and self.batch_size != type(self).model_fields["batch_size"].default:
                raise ValueError(
                    f"batch_size: only used with optimizer='adam', got {self.batch_size} with optimizer='sgd'"
                )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        shapes = (schema.n_users, config.embedding_dim), (schema.n_items, config.embedding_dim + 1)
        self._set_factors(*(np.zeros(shape, np.float32) for shape in shapes))

    def _set_factors(self, users_UD: Scores, items: Scores) -> None:
        """Set the learned factors; the bias is the first column of ``items (I, 1 + D)``."""
        self.users_UD = np.ascontiguousarray(users_UD)
        self.items_ID, self.bias_I = np.ascontiguousarray(items[:, 1:]), np.ascontiguousarray(items[:, 0])
        trained_UD = self.users_UD[self.users_UD.any(axis=1)]
        self.default_user_D = (
            trained_UD.mean(axis=0) if len(trained_UD) else np.zeros(self.config.embedding_dim, np.float32)
        )

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the mean loss of the triplets.

        Raises:
            ValueError: training diverged.
        """
        config, sampler = self.config, TripletSampler(train, self.config.sampler_alpha)
        n_users = train.n_users
        rows = _initial_rows(train, config.embedding_dim, run.rng("init"))
        n_moment_rows = len(rows) if config.optimizer == "adam" else 0
        means, squares = np.zeros((2, n_moment_rows, config.embedding_dim + 1), np.float32)
        hyperparameters = config.item_bias, config.learning_rate, config.l2, config.l2_bias
        n_steps = 0

        def step(iteration: int) -> dict[str, float]:
            nonlocal n_steps
            users, items, negatives = sampler.triples(run.rng(f"sweep/{iteration}"))
            triples, loss = (users, items + np.int32(n_users), negatives + np.int32(n_users)), np.zeros(1)
            if config.optimizer == "adam":
                bpr_adam_epoch(*triples, config.batch_size, n_steps, *hyperparameters, rows, means, squares, loss)
                n_steps += -(-len(users) // config.batch_size)
            else:
                bpr_sgd_epoch(*triples, *hyperparameters, rows, loss)
            if not (np.isfinite(loss[0]) and np.isfinite(rows).all()):
                raise ValueError(
                    f"bpr.learning_rate: got {config.learning_rate:g}, and training diverged; use a smaller one"
                )
            self._set_factors(rows[:n_users, 1:], rows[n_users:])
            return {"loss": float(loss[0]) / max(len(users), 1)}

        def restore(arrays: StateArrays) -> None:
            nonlocal n_steps
            for name, target in (("rows", rows), ("means", means), ("squares", squares)):
                target[:] = load_array(arrays, name, target.shape, np.float32)
            n_steps = int(load_array(arrays, "steps", (1,), np.int64)[0])
            self._set_factors(rows[:n_users, 1:], rows[n_users:])

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=lambda: {"rows": rows, "means": means, "squares": squares, "steps": np.array([n_steps])},
            restore=restore,
            model=self,
            validate=validate,
        )

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the trained factors of known users, and fold in the others.

        An empty history gets the factors of the mean user.
        """
        rows_ND = np.tile(self.default_user_D, (len(queries), 1))
        use_trained = queries.known.copy()
        use_trained[use_trained] = self.users_UD[queries.users[use_trained]].any(axis=1)
        rows_ND[use_trained] = self.users_UD[queries.users[use_trained]]
        use_fold_in = ~use_trained & (queries.history.lengths > 0)
        if use_fold_in.any():
            rows_ND[use_fold_in] = self._fold_in(queries.history.take(np.flatnonzero(use_fold_in)))
        return rows_ND

    def _fold_in(self, history: Events) -> Scores:
        """Compute the ``(N, D)`` factors of users with these nonempty histories.

        With x_ij the difference of the scores of a seen item i and any item j, the bound is ``w_i x_ij² / 8 - x_ij /
        2``, where w_i is at most 1 and depends on the mean of x_ij² over j. It only requires mean and covariance of the
        items.
        """
        row_codes, items, counts_N = history.rows.astype(np.int32), history.items, history.lengths
        centered_ID, centered_bias_I = self.items_ID - self.items_ID.mean(axis=0), self.bias_I - self.bias_I.mean()
        share = np.float32(1.0 / len(centered_bias_I))
        covariance_DD, bias_covariance_D, bias_variance = (
            gram(centered_ID) * share,
            centered_bias_I @ centered_ID * share,
            np.square(centered_bias_I).mean(),
        )
        ridge_N = 4.0 * max(self.config.l2, MIN_FOLD_IN_L2) * (counts_N + PRIOR_EVENTS)
        prior_ND = (PRIOR_EVENTS / (counts_N + PRIOR_EVENTS))[:, None] * self.default_user_D
        factors_ND = np.tile(self.default_user_D, (len(history), 1))
        for _ in range(FOLD_IN_ITERATIONS):
            difference_T = pair_products(factors_ND, centered_ID, row_codes, items) + centered_bias_I[items]
            variance_N = (
                np.einsum("nd,nd->n", factors_ND, factors_ND @ covariance_DD + 2.0 * bias_covariance_D) + bias_variance
            )
            bounds_T = np.sqrt(np.maximum(np.square(difference_T) + variance_N[row_codes], 1e-12))
            weights_T = 2.0 * np.tanh(bounds_T / 2.0) / bounds_T
            total_weight_N = np.bincount(row_codes, weights_T, minlength=len(history))
            scale_N = (ridge_N / total_weight_N).astype(np.float32)
            factors_ND, _ = solve_rows(
                history.offsets,
                items,
                (weights_T / total_weight_N[row_codes]).astype(np.float32),
                ((2.0 - weights_T * centered_bias_I[items]) / total_weight_N[row_codes]).astype(np.float32),
                centered_ID,
                ridge_D=np.ones(self.config.embedding_dim, np.float32),
                ridge_R=scale_N,
                common_DD=covariance_DD,
                prior_RD=prior_ND - bias_covariance_D / scale_N[:, None],
            )
        return factors_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item factors, ``(n_items, D)``."""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return the item biases, ``(n_items,)``."""
        return self.bias_I

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute scores; a difference is the log-odds of preferring the first item."""
        scores_NI: Scores = self.encode(queries) @ self.items_ID.T + self.bias_I
        return select_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item factors."""
        return cosine_similarity(self.items_ID, items)

    def arrays(self) -> StateArrays:
        """Return the user factors, the item factors and the item biases.

        The factors of users without events are zero.
        """
        return {"users": self.users_UD, "items": self.items_ID, "bias": self.bias_I}

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_users, n_items, width = self.schema.n_users, self.schema.n_items, self.config.embedding_dim
        users_UD = load_array(arrays, "users", (n_users, width), np.float32)
        items_ID = load_array(arrays, "items", (n_items, width), np.float32)
        bias_I = load_array(arrays, "bias", (n_items,), np.float32)
        self._set_factors(users_UD, np.concatenate([bias_I[:, None], items_ID], axis=1))


def _initial_rows(train: Dataset, width: int, rng: np.random.Generator) -> Scores:
    """Sample ``(R, 1 + D)`` initial rows of users, then items, with Glorot variance.

    The rows of users without events are 0.
    """
    rows = rng.standard_normal((train.n_users + train.n_items, width + 1), np.float32)
    users, items = rows[: train.n_users], rows[train.n_users :]
    for matrix in (users, items):
        matrix *= np.float32(np.sqrt(2.0 / (len(matrix) + width)))
    users[train.histories.lengths == 0] = 0.0
    users[:, 0], items[:, 0] = 1.0, 0.0
    return rows
