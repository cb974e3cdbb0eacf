"""iALS: matrix factorization of implicit feedback.

Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22; implemented as revisited by Rendle et al. 2021
(arXiv:2110.14037). Observed pairs have target 1. All others have target 0, with the small weight a0:

    sum_seen c (1 - p_u.q_i)²  +  a0 sum_pairs (p_u.q_i)²  +  l2 (sum_u s_u |p_u|² + sum_i s_i |q_i|²)

where the second sum is over all pairs of users and items (``unobserved="all"``) or those without an event (``"rest"``,
as in Hu et al.), c is 1 plus a weight for the event's value, and the regularization of a row grows with its total
weight, ``s_u = (events_u + a0 items)^frequency_scaling``. Users and items are updated alternately. The sum over all
pairs is computed from a Gram matrix, so the cost of an iteration is proportional to the number of events.

Shapes: U users, I items, N queries, C candidates, D dimensions, R rows, T distinct pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from pydantic import model_validator
from scipy.sparse import csr_array

from segue.core.config import Choices, Search, Settings, reject_unused
from segue.core.model import Solver, StateArrays, Validate, select_candidates
from segue.core.model_arrays import load_array
from segue.core.run import Run
from segue.core.types import Codes, DataSchema, Dataset, Events, Mask, Queries, Scores
from segue.solvers.biased_factor_model import cosine_similarity
from segue.solvers.block_coordinate_descent import solve_rows_by_blocks
from segue.solvers.conjugate_gradient import FixedSide, cg_solve, cg_steps
from segue.solvers.iterative_solver import solve_rows_iteratively
from segue.solvers.ridge import gram, solve_rows
from segue.solvers.training_iterations import run_iterations

__all__ = ["IALS"]

_CsrRows: TypeAlias = tuple[NDArray[np.int64], Codes, Scores]
"""Offsets, columns and weights of sparse rows."""


class IALS(Solver):
    """Implicit alternating least squares; all users are folded in from their history.

    For users whose history is that of training, the factors are cached, with the same result.
    """

    class Config(Settings):
        """Settings of ``ials``."""

        embedding_dim: Annotated[int, Ge(1), Choices((32, 64, 128, 256))] = 64
        """Number of factors of a user and of an item."""
        iterations: Annotated[int, Ge(1)] = 16
        """Number of alternations: each updates all users, then all items."""
        unobserved_weight: Annotated[float, Gt(0), Search(0.01, 1.0, log=True)] = 0.1
        """a0: weight of a pair without an event, relative to 1 for an event; higher values favor popular items."""
        unobserved: Literal["all", "rest"] = "all"
        """Pairs that get weight a0: ``all`` pairs, or only the ``rest``, which have no event."""
        l2: Annotated[float, Gt(0), Search(3e-4, 0.1, log=True)] = 0.003
        """L2 regularization."""
        frequency_scaling: Annotated[float, Ge(0)] = 1.0
        """Exponent of a row's total weight in its regularization; 0: the same for all rows."""
        value_weight: Annotated[float, Ge(0)] = 0.0
        """Weight added for each unit of an event's value; for counts and nonnegative ratings."""
        solver: Literal["conjugate_gradient", "exact", "subspace"] = "conjugate_gradient"
        """Improve rows by a few conjugate gradient steps, solve them exactly, or solve them by blocks of dimensions
        (``subspace``: iALS++).
        """
        cg_steps: Annotated[int, Ge(1)] = 3
        """Conjugate gradient steps for each row in each iteration."""
        block_size: Annotated[int, Ge(1)] = 32
        """Dimensions of a block of the subspace solver."""

        @model_validator(mode="after")
        def _all_used(self) -> Self:
            reject_unused(
                self,
                {
                    "cg_steps": (self.solver == "conjugate_gradient", "solver='conjugate_gradient'"),
                    "block_size": (self.solver == "subspace", "solver='subspace'"),
                },
            )
            return self

    def __init__(self, config: Any, schema: DataSchema) -> None:
        super().__init__(config, schema)
        self._set_items(
            np.zeros((schema.n_items, config.embedding_dim), np.float32), np.zeros(config.embedding_dim, np.float32)
        )
        self._use_values = config.value_weight > 0
        self.user_cache = _UserFactorCache(
            np.zeros((schema.n_users, config.embedding_dim), np.float32), np.zeros(schema.n_users, np.uint64)
        )

    def _set_items(self, items_ID: Scores, default_user_D: Scores) -> None:
        """Set the learned items and compute their Gram matrix, which every query needs."""
        self.items_ID, self.default_user_D = items_ID, default_user_D
        self._gram_DD = gram(items_ID)
        self._fixed_items: FixedSide | None = None  # computed when first needed

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Run all iterations; log the objective of each."""
        config, rng = self.config, run.rng("init")
        seen_UI = _weight_matrix(train.histories, train.n_items, config)
        by_user, by_item = _csr_rows(seen_UI), _csr_rows(csr_array(seen_UI.T))
        scale = 0.1 / np.sqrt(config.embedding_dim)
        users_UD = (scale * rng.standard_normal((train.n_users, config.embedding_dim))).astype(np.float32)
        items_ID = (scale * rng.standard_normal((train.n_items, config.embedding_dim))).astype(np.float32)
        self._set_items(items_ID, users_UD.mean(axis=0))

        def step(iteration: int) -> dict[str, float]:
            nonlocal users_UD
            users_UD, _ = self._update_side(by_user, self.items_ID, self._gram_DD, users_UD)
            items_ID, gains_I = self._update_side(by_item, users_UD, gram(users_UD), self.items_ID)
            self._set_items(items_ID, users_UD.mean(axis=0))
            total_weight, total_gain = (float(weights.sum(dtype=np.float64)) for weights in (seen_UI.data, gains_I))
            squares_U = np.square(users_UD).sum(axis=1, dtype=np.float64)
            return {"loss": total_weight - total_gain + float(self._ridge(by_user[0], train.n_items) @ squares_U)}

        def restore(arrays: StateArrays) -> None:
            nonlocal users_UD
            users_UD = load_array(arrays, "users", users_UD.shape, np.float32)
            self._set_items(load_array(arrays, "items", items_ID.shape, np.float32), users_UD.mean(axis=0))

        run_iterations(
            config.iterations,
            step,
            run,
            arrays=lambda: {"items": self.items_ID, "users": users_UD},
            restore=restore,
            model=self,
            validate=validate,
            validate_every=config.iterations,
        )
        self.user_cache = _UserFactorCache.of(train.histories, self._fold_in(by_user), self._use_values)

    def _update_side(self, rows: _CsrRows, fixed_CD: Scores, gram_DD: Scores, rows_RD: Scores) -> tuple[Scores, Scores]:
        """Improve the rows of one side given the other; return rows and gains."""
        config, problem = self.config, self._problem(rows)
        common_DD, ridge_R = self._common(gram_DD), self._ridge(rows[0], len(fixed_CD))
        if config.solver == "conjugate_gradient":
            return cg_steps(config.cg_steps, *problem, FixedSide.of(fixed_CD, common_DD), rows_RD, ridge_R=ridge_R)
        if config.solver == "subspace":
            block = min(config.block_size, config.embedding_dim)
            return solve_rows_iteratively(
                solve_rows_by_blocks, block, *problem, fixed_CD, rows_RD, ridge_R=ridge_R, common=common_DD
            )
        ones_D = np.ones(config.embedding_dim, np.float32)
        return solve_rows(*problem, fixed_CD, ridge_D=ones_D, ridge_R=ridge_R, common_DD=common_DD)

    def _fold_in(self, rows: _CsrRows) -> Scores:
        """Solve for the factors of users with these events."""
        if self._fixed_items is None:
            self._fixed_items = FixedSide.of(self.items_ID, self._common(self._gram_DD))
        return cg_solve(*self._problem(rows), self._fixed_items, ridge_R=self._ridge(rows[0], self.schema.n_items))

    def _problem(self, rows: _CsrRows) -> tuple[NDArray[np.int64], Codes, Scores, Scores]:
        """Return offsets, columns, weights and targets of the equations."""
        offsets, columns, seen_T = rows
        is_rest = self.config.unobserved == "rest"
        return offsets, columns, seen_T - np.float32(self.config.unobserved_weight) if is_rest else seen_T, seen_T

    def _common(self, gram_DD: Scores) -> Scores:
        """Return the matrix shared by all rows."""
        return np.float32(self.config.unobserved_weight) * gram_DD

    def _ridge(self, offsets: NDArray[np.int64], n_columns: int) -> Scores:
        """Return the ``(R,)`` regularization of rows.

        It depends on the offsets of the rows and on the number of columns.
        """
        weight_R = np.diff(offsets) + self.config.unobserved_weight * n_columns
        ridge_R: Scores = (self.config.l2 * weight_R**self.config.frequency_scaling).astype(np.float32)
        return ridge_R

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Solve for the factors of each history.

        An empty history gets the mean of all training users.
        """
        factors_ND = np.empty((len(queries), self.config.embedding_dim), np.float32)
        is_cached = self.user_cache.matches(queries, self._use_values)
        factors_ND[is_cached] = self.user_cache.rows_UD[queries.users[is_cached]]
        if not is_cached.all():
            histories = queries.history if not is_cached.any() else queries.history.take(np.flatnonzero(~is_cached))
            factors_ND[~is_cached] = self._fold_in(
                _csr_rows(_weight_matrix(histories, self.schema.n_items, self.config))
            )
        factors_ND[queries.history.lengths == 0] = self.default_user_D
        return factors_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Return the item factors, ``(n_items, D)``."""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """Return zeros, ``(n_items,)``."""
        return np.zeros(self.schema.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Compute scores: about 1 for items like those of the history, about 0 for others."""
        return select_candidates(self.encode(queries) @ self.items_ID.T, candidates)

    def similar(self, items: Codes) -> Scores:
        """Return cosine similarities of item factors."""
        return cosine_similarity(self.items_ID, items)

    def arrays(self) -> StateArrays:
        """Return the item factors, the user factors and the mean user.

        The user factors come with a fingerprint of each user's history.
        """
        return {
            "items": self.items_ID,
            "default_user": self.default_user_D,
            "users": self.user_cache.rows_UD,
            "fingerprints": self.user_cache.fingerprints_U,
        }

    def restore(self, arrays: StateArrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.embedding_dim
        items_ID = load_array(arrays, "items", (self.schema.n_items, width), np.float32)
        self._set_items(items_ID, load_array(arrays, "default_user", (width,), np.float32))
        users_UD = load_array(arrays, "users", (self.schema.n_users, width), np.float32)
        self.user_cache = _UserFactorCache(
            users_UD, load_array(arrays, "fingerprints", (self.schema.n_users,), np.uint64)
        )


def _weight_matrix(events: Events, n_items: int, config: IALS.Config) -> csr_array[Any]:
    """Return the ``(N, I)`` weights: 1 plus the contribution of values.

    Raises:
        ValueError: a value is negative, which could make a weight negative.
    """
    seen_NI = events.csr(n_items)
    if config.value_weight and events.values is not None:
        values = np.nan_to_num(events.values)
        if len(values) and values.min() < 0:
            raise ValueError(
                f"ials.value_weight: got an event with value {values.min():g}, expected values of at least 0"
            )
        seen_NI.data += np.float32(config.value_weight) * events.csr(n_items, values).data
    return seen_NI


def _csr_rows(table: csr_array[Any]) -> _CsrRows:
    """Return offsets, columns and weights in the types that kernels expect."""
    return table.indptr.astype(np.int64), table.indices.astype(np.int32), np.asarray(table.data, np.float32)


@dataclass(frozen=True, eq=False)
class _UserFactorCache:
    """Cache of user factors.

    A fingerprint of the history from which they were computed is stored for each user.
    """

    rows_UD: Scores
    fingerprints_U: NDArray[np.uint64]

    @classmethod
    def of(cls, histories: Events, rows_UD: Scores, use_values: bool) -> _UserFactorCache:
        """Store factors, and fingerprints of the histories that they were computed from.

        ``use_values``: include the events' values in the fingerprint.
        """
        return cls(rows_UD, _fingerprints(histories, use_values))

    def matches(self, queries: Queries, use_values: bool) -> Mask:
        """Return ``(N,)`` whether a user is known and has their training history.

        The order of the events does not matter.
        """
        is_match: Mask = queries.known.copy()
        if is_match.any():
            is_match[is_match] = (
                self.fingerprints_U[queries.users[is_match]] == _fingerprints(queries.history, use_values)[is_match]
            )
        return is_match


def _fingerprints(events: Events, use_values: bool) -> NDArray[np.uint64]:
    """Return ``(N,)`` sums of hashes of the events.

    The hash is SplitMix64 (Steele et al. 2014, doi:10.1145/2714064.2660195). Different histories collide with
    probability 2^-64.
    """
    hashes = events.items.astype(np.uint64) + np.uint64(1)
    if use_values and events.values is not None:
        hashes ^= events.values.view(np.uint32).astype(np.uint64) << np.uint64(32)
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= np.uint64(factor)
    hashes ^= hashes >> np.uint64(31)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes, dtype=np.uint64)])
    fingerprints: NDArray[np.uint64] = sums[events.offsets[1:]] - sums[events.offsets[:-1]]
    return fingerprints
