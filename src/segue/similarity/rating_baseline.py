"""What a value is expected to be before anyone's taste is looked at: a mean, means of users or items, or biases.

The biases minimise ``sum (r - mean - b_u - b_i)² + l2_user sum b_u² + l2_item sum b_i²`` (Koren 2010,
doi:10.1145/1644873.1644874, eq. 1), all items and then all users in turn.

Shapes: U users, I items, N people, T values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.types import Codes, Events, Scores

__all__ = ["Centre", "Kind", "mean_values"]

Kind: TypeAlias = Literal["none", "user", "item", "z_score", "baseline"]

FLAT = 1e-6
"""A deviation below this share of the whole data's is none."""


@dataclass(frozen=True, eq=False)
class Centre:
    """``mean + users_U[u] + items_I[i]``, and the unit in which deviations from it are counted."""

    kind: Kind
    mean: np.float32
    users_U: Scores
    """``(U,)``"""
    items_I: Scores
    """``(I,)``"""
    units: Scores
    """``(U,)`` or ``(I,)`` standard deviations of the rows that are compared, or ones."""
    unit: np.float32
    """The standard deviation of all values, for rows that have none."""
    l2_user: float

    @classmethod
    def of(
        cls, values_UI: csr_array[Any], kind: Kind, by_user: bool, sweeps: int, l2_user: float, l2_item: float
    ) -> Centre:
        """The centre of a table of values; ``by_user``: whether users are the rows that are compared."""
        rows, columns, values = _cells(values_UI)
        n_users, n_items = values_UI.shape
        mean = float(values.mean()) if kind != "none" else 0.0
        users_U, items_I = np.zeros(n_users), np.zeros(n_items)
        units = np.ones(n_users if by_user else n_items)
        unit = float(values.std())
        if kind == "user" or (kind == "z_score" and by_user):
            users_U = _means(rows, values - mean, n_users, 0.0)
        elif kind in ("item", "z_score"):
            items_I = _means(columns, values - mean, n_items, 0.0)
        elif kind == "baseline":
            for _ in range(sweeps):
                items_I = _means(columns, values - mean - users_U[rows], n_items, l2_item)
                users_U = _means(rows, values - mean - items_I[columns], n_users, l2_user)
        if kind == "z_score":
            squares = np.square(values - mean - users_U[rows] - items_I[columns])
            units = _units(np.sqrt(_means(rows if by_user else columns, squares, len(units), 0.0)), unit)
        offsets = users_U.astype(np.float32), items_I.astype(np.float32)
        return cls(kind, np.float32(mean), *offsets, units.astype(np.float32), np.float32(unit), l2_user)

    def people(self, values_NI: csr_array[Any], by_user: bool) -> tuple[Scores, Scores]:
        """``(N,)`` offsets of people with these values, as they would have got them in training, and their units."""
        rows, columns, values = _cells(values_NI)
        n = values_NI.shape[0]
        users_N, units_N = np.zeros(n), np.ones(n)
        about = values - float(self.mean) - self.items_I[columns]
        if self.kind == "user" or (self.kind == "z_score" and by_user):
            users_N = _means(rows, about, n, 0.0)
        elif self.kind == "baseline":
            users_N = _means(rows, about, n, self.l2_user)
        if self.kind == "z_score" and by_user:
            units_N = _units(np.sqrt(_means(rows, np.square(about - users_N[rows]), n, 0.0)), float(self.unit))
        return users_N.astype(np.float32), units_N.astype(np.float32)


def mean_values(events: Events, n_items: int) -> csr_array[Any]:
    """``(N, I)`` the values of events, all of which have one; several of one item become their mean."""
    assert events.values is not None or events.size == 0, "events with values"
    values = np.zeros(0, np.float32) if events.values is None else events.values
    shape = len(events), n_items
    summed, counted = (
        csr_array((data, events.items, events.offsets), shape=shape, copy=True)
        for data in (values.astype(np.float64), np.ones(events.size))
    )
    summed.sum_duplicates()
    counted.sum_duplicates()
    return csr_array(((summed.data / counted.data).astype(np.float32), summed.indices, summed.indptr), shape=shape)


def _cells(values_UI: csr_array[Any]) -> tuple[NDArray[np.int64], Codes, NDArray[np.float64]]:
    rows = np.repeat(np.arange(values_UI.shape[0]), np.diff(values_UI.indptr))
    return rows, values_UI.indices, values_UI.data.astype(np.float64)


def _means(codes: NDArray[Any], values: NDArray[np.float64], count: int, l2: float) -> NDArray[np.float64]:
    """``(count,)`` means by code, drawn towards 0 by ``l2`` values of 0; 0 where there is none."""
    counts = np.bincount(codes, minlength=count) + l2
    sums = np.bincount(codes, values, minlength=count)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.zeros(count), where=counts > 0)
    return means


def _units(spread: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """Deviations to divide by: of a constant row that of all values, and 1 where all values are equal."""
    return np.where(spread > FLAT * unit, spread, unit) if unit > 0 else np.ones(len(spread))
