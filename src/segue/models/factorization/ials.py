"""iALS: matrix factorisation of who had what (Hu, Koren and Volinsky 2008, doi:10.1109/ICDM.2008.22), as revisited by
Rendle et al. 2021 (arXiv:2110.14037).

What happened should score 1, and all else 0, with the small weight a0:

    sum_seen c (1 - p_u.q_i)²  +  a0 sum_pairs (p_u.q_i)²  +  l2 (sum_u s_u |p_u|² + sum_i s_i |q_i|²)

where the second sum is over all pairs of users and items (``unobserved="all"``) or those without an event (``"rest"``,
as Hu et al. have it), c is 1 plus what an event's value adds, and a row's ridge grows with what it has to explain,
``s_u = (events_u + a0 items)^frequency_scaling``. Users and items take turns; the Gram matrix stands for all pairs, so
that a sweep costs what the events cost.

Shapes: U users, I items, N queries, C candidates, D width, T distinct pairs.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from annotated_types import Ge, Gt
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.config import Settings
from segue.core.model import Arrays, Solver, Validate, pick_candidates
from segue.core.model_arrays import take_back
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Domain, Events, Queries, Scores
from segue.solvers.biased_factor_model import cosine_likeness
from segue.solvers.block_coordinate_descent import improve
from segue.solvers.conjugate_gradient import Fixed, approached, reached
from segue.solvers.iterative_solver import improved
from segue.solvers.ridge import gram, solve_rows
from segue.solvers.training_iterations import sweeps
from segue.solvers.user_factor_cache import Remembered

__all__ = ["IALS"]

_Rows: TypeAlias = tuple[NDArray[np.int64], Codes, Scores]
"""Rows of a sparse table: where each begins, columns, weights."""


class IALS(Solver):
    """Implicit alternating least squares; everybody is folded in from his history, known or not.

    Who still has the history that he was trained with is remembered instead, which gives the same.
    """

    class Config(Settings):
        """Settings of ``ials``."""

        width: Annotated[int, Ge(1)] = 64
        """Factors of a user and of an item."""
        sweeps: Annotated[int, Ge(1)] = 16
        """Times that all users and then all items are solved."""
        unobserved_weight: Annotated[float, Gt(0)] = 0.1
        """a0: how much a pair without an event counts, where an event counts 1; more leans to the popular."""
        unobserved: Literal["all", "rest"] = "all"
        """Pairs that a0 counts for: all, or those without an event."""
        l2: Annotated[float, Gt(0)] = 0.003
        """Ridge."""
        frequency_scaling: Annotated[float, Ge(0)] = 1.0
        """Power of a row's weight with which its ridge grows; 0: all the same."""
        value_weight: Annotated[float, Ge(0)] = 0.0
        """Weight that each unit of an event's value adds to it, for counts and ratings above 0."""
        solver: Literal["conjugate_gradient", "exact", "subspace"] = "conjugate_gradient"
        """How a row is solved: by a few steps towards the solution, exactly, or block by block of its dimensions."""
        steps: Annotated[int, Ge(1)] = 3
        """Steps of conjugate gradients for each row in each sweep."""
        block: Annotated[int, Ge(1)] = 32
        """Dimensions of a block of the subspace solver."""

    def __init__(self, config: Any, domain: Domain) -> None:
        super().__init__(config, domain)
        self._keep(np.zeros((domain.n_items, config.width), np.float32), np.zeros(config.width, np.float32))
        self._by_value = config.value_weight > 0
        self.users = Remembered(
            np.zeros((domain.n_users, config.width), np.float32), np.zeros(domain.n_users, np.uint64)
        )

    def _keep(self, items_ID: Scores, newcomer_D: Scores) -> None:
        """Take what was learned; the Gram matrix, which every question needs, follows from it."""
        self.items_ID, self.newcomer_D = items_ID, newcomer_D
        self._gram_DD = gram(items_ID)
        self._fixed: Fixed | None = None  # made when somebody asks

    def fit(self, train: Dataset, run: Run, validate: Validate | None) -> None:
        """Sweep; each sweep's objective goes into the run's history."""
        config, rng = self.config, run.rng("init")
        seen_UI = _seen(train.histories, train.n_items, config)
        by_user, by_item = _rows(seen_UI), _rows(csr_array(seen_UI.T))
        spread = 0.1 / np.sqrt(config.width)
        users_UD = (spread * rng.standard_normal((train.n_users, config.width))).astype(np.float32)
        items_ID = (spread * rng.standard_normal((train.n_items, config.width))).astype(np.float32)
        self._keep(items_ID, users_UD.mean(axis=0))

        def once(sweep: int) -> dict[str, float]:
            nonlocal users_UD
            users_UD, _ = self._half(by_user, self.items_ID, self._gram_DD, users_UD)
            items_ID, gains_I = self._half(by_item, users_UD, gram(users_UD), self.items_ID)
            self._keep(items_ID, users_UD.mean(axis=0))
            seen, gained = (float(part.sum(dtype=np.float64)) for part in (seen_UI.data, gains_I))
            squares_U = np.square(users_UD).sum(axis=1, dtype=np.float64)
            return {"loss": seen - gained + float(self._ridge(by_user[0], train.n_items) @ squares_U)}

        def restore(arrays: Arrays) -> None:
            nonlocal users_UD
            users_UD = take_back(arrays, "users", users_UD.shape, np.float32)
            self._keep(take_back(arrays, "items", items_ID.shape, np.float32), users_UD.mean(axis=0))

        sweeps(
            config.sweeps,
            once,
            run,
            arrays=lambda: {"items": self.items_ID, "users": users_UD},
            restore=restore,
            model=self,
            validate=validate,
            validate_every=config.sweeps,
        )
        self.users = Remembered.of(train.histories, self._fold_in(by_user), self._by_value)

    def _half(self, rows: _Rows, fixed_CD: Scores, gram_DD: Scores, rows_RD: Scores) -> tuple[Scores, Scores]:
        """All rows of one side, better than ``rows_RD``, given the other side; and what they gain."""
        config, problem = self.config, self._problem(rows)
        common_DD, ridge_R = self._common(gram_DD), self._ridge(rows[0], len(fixed_CD))
        if config.solver == "conjugate_gradient":
            return approached(config.steps, *problem, Fixed.of(fixed_CD, common_DD), rows_RD, ridge_R=ridge_R)
        if config.solver == "subspace":
            block = min(config.block, config.width)
            return improved(improve, block, *problem, fixed_CD, rows_RD, ridge_R=ridge_R, common=common_DD)
        ones_D = np.ones(config.width, np.float32)
        return solve_rows(*problem, fixed_CD, ridge_D=ones_D, ridge_R=ridge_R, common_DD=common_DD)

    def _fold_in(self, rows: _Rows) -> Scores:
        """The solution for people with these events."""
        if self._fixed is None:
            self._fixed = Fixed.of(self.items_ID, self._common(self._gram_DD))
        return reached(*self._problem(rows), self._fixed, ridge_R=self._ridge(rows[0], self.domain.n_items))

    def _problem(self, rows: _Rows) -> tuple[NDArray[np.int64], Codes, Scores, Scores]:
        """Offsets, columns, weights and right sides of the rows' equations."""
        offsets, columns, seen_T = rows
        rest = self.config.unobserved == "rest"
        return offsets, columns, seen_T - np.float32(self.config.unobserved_weight) if rest else seen_T, seen_T

    def _common(self, gram_DD: Scores) -> Scores:
        return np.float32(self.config.unobserved_weight) * gram_DD

    def _ridge(self, offsets: NDArray[np.int64], others: int) -> Scores:
        """``(R,)`` the ridge of rows with so many events, among so many others."""
        weight_R = np.diff(offsets) + self.config.unobserved_weight * others
        ridge_R: Scores = (self.config.l2 * weight_R**self.config.frequency_scaling).astype(np.float32)
        return ridge_R

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """The solution for each history; the mean of all training users for an empty one."""
        found_ND = np.empty((len(queries), self.config.width), np.float32)
        still = self.users.still(queries, self._by_value)
        found_ND[still] = self.users.rows_UD[queries.users[still]]
        if not still.all():
            others = queries.history if not still.any() else queries.history.take(np.flatnonzero(~still))
            found_ND[~still] = self._fold_in(_rows(_seen(others, self.domain.n_items, self.config)))
        found_ND[queries.history.lengths == 0] = self.newcomer_D
        return found_ND

    @property
    def vectors(self) -> NDArray[np.float32]:
        """``(n_items, D)``"""
        return self.items_ID

    @property
    def bias(self) -> NDArray[np.float32]:
        """``(n_items,)`` zeros."""
        return np.zeros(self.domain.n_items, np.float32)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """About 1 for what is as good as had, about 0 for the rest."""
        return pick_candidates(self.encode(queries) @ self.items_ID.T, candidates)

    def similar(self, items: Codes) -> Scores:
        """The cosine between the items' factors."""
        return cosine_likeness(self.items_ID, items)

    def arrays(self) -> Arrays:
        """The items' factors, the users' with fingerprints of their histories, and the mean of the users'."""
        return {
            "items": self.items_ID,
            "newcomer": self.newcomer_D,
            "users": self.users.rows_UD,
            "prints": self.users.prints_U,
        }

    def restore(self, arrays: Arrays) -> None:
        """See :meth:`segue.core.model.Model.restore`."""
        width = self.config.width
        items_ID = take_back(arrays, "items", (self.domain.n_items, width), np.float32)
        self._keep(items_ID, take_back(arrays, "newcomer", (width,), np.float32))
        users_UD = take_back(arrays, "users", (self.domain.n_users, width), np.float32)
        self.users = Remembered(users_UD, take_back(arrays, "prints", (self.domain.n_users,), np.uint64))


def _seen(events: Events, n_items: int, config: IALS.Config) -> csr_array[Any]:
    """``(N, I)`` the weight of each row's items: 1, and what their values add.

    Raises:
        ValueError: a value below zero would make a weight that is none.
    """
    seen_NI = events.csr(n_items)
    if config.value_weight and events.values is not None:
        values = np.nan_to_num(events.values)
        if len(values) and values.min() < 0:
            raise ValueError(f"ials.value_weight: got an event of value {values.min():g}, expected none below 0")
        seen_NI.data += np.float32(config.value_weight) * events.csr(n_items, values).data
    return seen_NI


def _rows(table: csr_array[Any]) -> _Rows:
    return table.indptr.astype(np.int64), table.indices.astype(np.int32), np.asarray(table.data, np.float32)
