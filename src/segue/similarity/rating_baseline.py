"""Baseline predictions from a mean and biases, for neighborhood models.

The biases minimize ``sum (r - mean - b_u - b_i)² + l2_user sum b_u² + l2_item sum b_i²`` (Koren 2010,
doi:10.1145/1644873.1644874, eq. 1), and are computed by alternating updates of all items and all users. The number of
updates is fixed, and users and items have separate regularization; :mod:`segue.solvers.bias_baseline` iterates to
convergence with the same for both.

Shapes: U users, I items, N query users, T values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.ratings import shrunken_means
from segue.core.types import Codes, Events, Scores

__all__ = ["Normalization", "RatingBaseline", "mean_values"]

Normalization: TypeAlias = Literal["none", "user", "item", "z_score", "baseline"]
"""``none``; mean of the ``user`` or ``item``; ``z_score``: mean and deviation; ``baseline``: biases."""

FLAT = 1e-6
"""Standard deviations below this share of that of all values count as zero."""


@dataclass(frozen=True, eq=False)
class RatingBaseline:
    """``mean + users_U[u] + items_I[i]``, and the units of deviations from it."""

    normalization: Normalization
    mean: np.float32
    users_U: Scores
    """``(U,)``"""
    items_I: Scores
    """``(I,)``"""
    units: Scores
    """``(U,)`` or ``(I,)`` standard deviations of the compared rows, or ones."""
    unit: np.float32
    """Standard deviation of all values, for rows without one of their own."""
    l2_user: float

    @classmethod
    def fit(
        cls,
        values_UI: csr_array[Any],
        normalization: Normalization,
        by_user: bool,
        iterations: int,
        l2_user: float,
        l2_item: float,
    ) -> RatingBaseline:
        """Fit the baseline to rated values.

        Args:
            values_UI: the values.
            normalization: what is subtracted.
            by_user: whether users, and not items, are compared.
            iterations: number of bias updates for ``baseline``.
            l2_user: regularization of user biases.
            l2_item: regularization of item biases.
        """
        rows, columns, values = _to_coo(values_UI)
        n_users, n_items = values_UI.shape
        mean = float(values.mean()) if normalization != "none" else 0.0
        users_U, items_I = np.zeros(n_users), np.zeros(n_items)
        units = np.ones(n_users if by_user else n_items)
        unit = float(values.std())
        if normalization == "user" or (normalization == "z_score" and by_user):
            users_U = shrunken_means(rows, values - mean, n_users, 0.0)
        elif normalization in ("item", "z_score"):
            items_I = shrunken_means(columns, values - mean, n_items, 0.0)
        elif normalization == "baseline":
            for _ in range(iterations):
                items_I = shrunken_means(columns, values - mean - users_U[rows], n_items, l2_item)
                users_U = shrunken_means(rows, values - mean - items_I[columns], n_users, l2_user)
        if normalization == "z_score":
            squares = np.square(values - mean - users_U[rows] - items_I[columns])
            units = _nonzero_units(
                np.sqrt(shrunken_means(rows if by_user else columns, squares, len(units), 0.0)), unit
            )
        offsets = users_U.astype(np.float32), items_I.astype(np.float32)
        return cls(normalization, np.float32(mean), *offsets, units.astype(np.float32), np.float32(unit), l2_user)

    def fold_in(self, values_NI: csr_array[Any], by_user: bool) -> tuple[Scores, Scores]:
        """Compute the ``(N,)`` biases of users with these values, and their units.

        Both are computed as in training.
        """
        rows, columns, values = _to_coo(values_NI)
        n = values_NI.shape[0]
        users_N, units_N = np.zeros(n), np.ones(n)
        deviations = values - float(self.mean) - self.items_I[columns]
        if self.normalization == "user" or (self.normalization == "z_score" and by_user):
            users_N = shrunken_means(rows, deviations, n, 0.0)
        elif self.normalization == "baseline":
            users_N = shrunken_means(rows, deviations, n, self.l2_user)
        if self.normalization == "z_score" and by_user:
            units_N = _nonzero_units(
                np.sqrt(shrunken_means(rows, np.square(deviations - users_N[rows]), n, 0.0)), float(self.unit)
            )
        return users_N.astype(np.float32), units_N.astype(np.float32)


def mean_values(events: Events, n_items: int) -> csr_array[Any]:
    """Return the ``(N, I)`` mean value of each user's events with each item.

    All events must have a value.
    """
    assert events.values is not None or events.size == 0, "events without values"
    values = np.zeros(0, np.float32) if events.values is None else events.values
    shape = len(events), n_items
    summed, counted = (
        csr_array((data, events.items, events.offsets), shape=shape, copy=True)
        for data in (values.astype(np.float64), np.ones(events.size))
    )
    summed.sum_duplicates()
    counted.sum_duplicates()
    return csr_array(((summed.data / counted.data).astype(np.float32), summed.indices, summed.indptr), shape=shape)


def _to_coo(values_UI: csr_array[Any]) -> tuple[NDArray[np.int64], Codes, NDArray[np.float64]]:
    """Return row, column and value of each cell."""
    rows = np.repeat(np.arange(values_UI.shape[0]), np.diff(values_UI.indptr))
    return rows, values_UI.indices, values_UI.data.astype(np.float64)


def _nonzero_units(deviations: NDArray[np.float64], default: float) -> NDArray[np.float64]:
    """Replace zero deviations, which are those of constant rows.

    They become the deviation of all values, or 1 if all values are equal.
    """
    return np.where(deviations > FLAT * default, deviations, default) if default > 0 else np.ones(len(deviations))
