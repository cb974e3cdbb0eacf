"""BPR: factors by Bayesian personalised ranking (Rendle et al. 2009, arXiv:1205.2618).

A score is ``p_u . q_i + b_i``. For each event of the log an item is drawn that its user has not had, and what he had
is to score higher: ``-ln sigma(x)`` with x the difference of the two scores. A sweep is a pass over all events in
random order, triple by triple by plain gradient, as in the paper, or batch by batch by Adam, as libraries of networks
have it. One thread does it, so that the numbers are always the same.

People who were not there in training are folded in: the items are fixed, and their objective is that of training,
expected over all items as negatives. A quadratic bound of ``-ln sigma(x)`` (Jaakkola and Jordan 2000,
doi:10.1023/A:1008932416310) makes it a ridge regression, whose solution says where the bound is put next.

Shapes: U users, I items, N queries, C candidates, D width, R users and items, T events.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.biased_factor_model import cosine_likeness, pair_products
from segue.solvers.bpr_sgd import adam, descend
from segue.solvers.ridge import gram, solve_rows
from segue.solvers.training_iterations import sweeps
from segue.solvers.triplet_sampling import Draws

__all__ = ["BPR"]

LEAST_L2 = 0.01
"""For who is folded in, where training had less: training is stopped early, a solution is not."""
PULL = 10.0
"""Events that the mean of all users stands for in a history."""
ROUNDS = 4
"""Times that the bound is put where the solution is."""


class BPR(Solver):
    """Pairwise matrix factorisation; known people are as they were in training, others are folded in."""

    class Config(Settings):
        """Settings of ``bpr``."""

        width: Annotated[int, Ge(1)] = 64
        """Factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 30
        """Passes over all events, each with new negatives."""
        optimizer: Literal["adam", "sgd"] = "adam"
        """A step of Adam for each batch, or of plain gradient for each triple: faster, in need of more sweeps."""
        batch_size: Annotated[int, Ge(1)] = 512
        """Triples of a step of ``adam``."""
        learning_rate: Annotated[float, Gt(0)] = 1e-3
        """Length of a step; about 0.001 for ``adam``, 0.02 for ``sgd``."""
        l2: Annotated[float, Ge(0)] = 0.01
        """Pull of the factors to zero in each triple."""
        l2_bias: Annotated[float, Ge(0)] = 0.01
        """Pull of the items' biases."""
        item_bias: bool = True
        """Whether items have a bias, which is what all users together think of them."""
        sampler_alpha: Annotated[float, Ge(0)] = 0.0
        """Power of an item's count with which it is drawn as a negative; 0: all items alike."""

        @model_validator(mode="after")
        def _used(self) -> BPR.Config:
            if self.optimizer == "sgd" and self.batch_size != type(self).model_fields["batch_size"].default:
                raise ValueError(f"batch_size: got {self.batch_size}, but only optimizer 'adam' takes batches")
            return self

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        shapes = (domain.n_users, config.width), (domain.n_items, config.width + 1)
        self._keep(*(np.zeros(shape, np.float32) for shape in shapes))

    def _keep(self, users_UD: Scores, items: Scores) -> None:
        """Take what was learned; the bias stands first in ``items (I, 1 + D)``."""
        self.users_UD = np.ascontiguousarray(users_UD)
        self.items_ID, self.bias_I = np.ascontiguousarray(items[:, 1:]), np.ascontiguousarray(items[:, 0])
        heard_UD = self.users_UD[self.users_UD.any(axis=1)]
        self.newcomer_D = heard_UD.mean(axis=0) if len(heard_UD) else np.zeros(self.config.width, np.float32)

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sweep; the mean of ``-ln sigma(x)`` over each sweep's triples goes into the run's history.

        Raises:
            ValueError: steps so long that the factors grow without bound.
        """
        config, draws = self.config, Draws(train, self.config.sampler_alpha)
        n_users = train.n_users
        rows = _start(train, config.width, run.rng("init"))
        moved = len(rows) if config.optimizer == "adam" else 0
        means, squares = np.zeros((2, moved, config.width + 1), np.float32)
        rules = config.item_bias, config.learning_rate, config.l2, config.l2_bias
        done = 0

        def once(sweep: int) -> dict[str, float]:
            nonlocal done
            users, items, others = draws.triples(run.rng(f"sweep/{sweep}"))
            triples, loss = (users, items + np.int32(n_users), others + np.int32(n_users)), np.zeros(1)
            if config.optimizer == "adam":
                adam(*triples, config.batch_size, done, *rules, rows, means, squares, loss)
                done += -(-len(users) // config.batch_size)
            else:
                descend(*triples, *rules, rows, loss)
            if not (np.isfinite(loss[0]) and np.isfinite(rows).all()):
                raise ValueError(f"bpr.learning_rate: got {config.learning_rate:g}, too long a step: no finite factors")
            self._keep(rows[:n_users, 1:], rows[n_users:])
            return {"loss": float(loss[0]) / max(len(users), 1)}

        def restore(arrays: Arrays) -> None:
            nonlocal done
            for name, own in (("rows", rows), ("means", means), ("squares", squares)):
                own[:] = take_back(arrays, name, own.shape, np.float32)
            done = int(take_back(arrays, "steps", (1,), np.int64)[0])
            self._keep(rows[:n_users, 1:], rows[n_users:])

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=lambda: {"rows": rows, "means": means, "squares": squares, "steps": np.array([done])},
            restore=restore,
            model=self,
            validate=validate,
        )

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """A known user's own factors; others folded in from their history; the mean of all users where it is empty."""
        rows_ND = np.tile(self.newcomer_D, (len(queries), 1))
        own = queries.known.copy()
        own[own] = self.users_UD[queries.users[own]].any(axis=1)
        rows_ND[own] = self.users_UD[queries.users[own]]
        foreign = ~own & (queries.history.lengths > 0)
        if foreign.any():
            rows_ND[foreign] = self._fold_in(queries.history.take(np.flatnonzero(foreign)))
        return rows_ND

    def _fold_in(self, history: Events) -> Scores:
        """``(N, D)`` factors of people with these histories, none of which is empty.

        With x_ij the difference between the scores of an item i that was had and of any item j, the bound is
        ``w_i x_ij² / 8 - x_ij / 2``, where w_i is 1 or less and follows from the mean of x_ij² over j. Of the items,
        only mean and covariance are needed for that.
        """
        rows, items, counts_N = history.rows.astype(np.int32), history.items, history.lengths
        centred_ID, ahead_I = self.items_ID - self.items_ID.mean(axis=0), self.bias_I - self.bias_I.mean()
        share = np.float32(1.0 / len(ahead_I))
        spread_DD, biased_D, biases = gram(centred_ID) * share, ahead_I @ centred_ID * share, np.square(ahead_I).mean()
        ridge_N = 4.0 * max(self.config.l2, LEAST_L2) * (counts_N + PULL)
        centre_ND = (PULL / (counts_N + PULL))[:, None] * self.newcomer_D
        found_ND = np.tile(self.newcomer_D, (len(history), 1))
        for _ in range(ROUNDS):
            ahead_T = pair_products(found_ND, centred_ID, rows, items) + ahead_I[items]
            spread_N = np.einsum("nd,nd->n", found_ND, found_ND @ spread_DD + 2.0 * biased_D) + biases
            sizes_T = np.sqrt(np.maximum(np.square(ahead_T) + spread_N[rows], 1e-12))
            weights_T = 2.0 * np.tanh(sizes_T / 2.0) / sizes_T
            total_N = np.bincount(rows, weights_T, minlength=len(history))
            scale_N = (ridge_N / total_N).astype(np.float32)
            found_ND, _ = solve_rows(
                history.offsets,
                items,
                (weights_T / total_N[rows]).astype(np.float32),
                ((2.0 - weights_T * ahead_I[items]) / total_N[rows]).astype(np.float32),
                centred_ID,
                ridge_D=np.ones(self.config.width, np.float32),
                ridge_R=scale_N,
                common_DD=spread_DD,
                prior_RD=centre_ND - biased_D / scale_N[:, None],
            )
        return found_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)``"""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)``"""
        return self.bias_I

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """The difference of two items' scores is the logarithm of the odds that the first is preferred."""
        scores_NI: Scores = self.encode(queries) @ self.items_ID.T + self.bias_I
        return pick_candidates(scores_NI, candidates)

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' factors."""
        return cosine_likeness(self.items_ID, items)

    def arrays(self) -> Arrays:
        """Factors of users, zero where there was no event, and of items; the items' biases."""
        return {"users": self.users_UD, "items": self.items_ID, "bias": self.bias_I}

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        n_users, n_items, width = self.domain.n_users, self.domain.n_items, self.config.width
        users_UD = take_back(arrays, "users", (n_users, width), np.float32)
        items_ID = take_back(arrays, "items", (n_items, width), np.float32)
        bias_I = take_back(arrays, "bias", (n_items,), np.float32)
        self._keep(users_UD, np.concatenate([bias_I[:, None], items_ID], axis=1))


def _start(train: Dataset, width: int, rng: np.random.Generator) -> Scores:
    """``(R, 1 + D)`` users, then items, normal with the variance of Glorot and Bengio; users without an event are 0."""
    rows = rng.standard_normal((train.n_users + train.n_items, width + 1), np.float32)
    users, items = rows[: train.n_users], rows[train.n_users :]
    for table in (users, items):
        table *= np.float32(np.sqrt(2.0 / (len(table) + width)))
    users[train.histories.lengths == 0] = 0.0
    users[:, 0], items[:, 0] = 1.0, 0.0
    return rows
