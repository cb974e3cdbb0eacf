"""Predicted values from nearest neighbours: what is expected, and how far the neighbours are from what was expected of
them (Koren 2010, doi:10.1145/1644873.1644874, eq. 3; with means for biases: Herlocker et al. 1999,
doi:10.1145/312624.312682).

    r = centre_ui + unit sum_v like(u, v) deviation_vi / sum_v like(u, v)

over the ``neighbours`` nearest to user u among those who rated item i; or, with items for users, nearest to item i
among the items that user u rated. Only likeness above 0 counts. Likeness is computed when it is asked for, from the
ratings, which are all that is kept.

Shapes: U users, I items, N people who ask, R rows that are compared, T pairs, B rows of a block, D distinct items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from segue.core.model import Arrays
from segue.core.model_arrays import take_back
from segue.core.numba_kernels import over_rows
from segue.core.ratings import ratings_of, valued
from segue.core.types import Codes, Dataset, Domain, Queries, Scores
from segue.similarity import weighted_mean_kernels
from segue.similarity.nearest import arrays_of, likeness
from segue.similarity.rating_baseline import Centre, mean_values
from segue.similarity.settings import NeighbourSettings
from segue.similarity.similarity_registry import DISTRIBUTIONS, MEASURES
from segue.similarity.sparse_rows import Table
from segue.similarity.value_histograms import by_item, level_table, levels_of

__all__ = ["Opinions"]

BLOCK_CELLS = 16_000_000
"""Cells of a dense block of likeness to users: 64 MB as float32."""
HELD_CELLS = 64_000_000
"""Cells of a dense block of likeness between all items and those of some histories."""


@dataclass(frozen=True, eq=False)
class _People:
    """Who asks, folded in from his values."""

    values_NI: csr_array[Any]
    apart_NI: csr_array[Any]
    """Deviations from the centre, in units."""
    users_N: Scores
    units_N: Scores
    itself_N: Codes
    """His row in training; -1: none."""

    def block(self, start: int, stop: int) -> _People:
        """People ``start:stop``."""
        return _People(*(array[start:stop] for array in vars(self).values()))


class Opinions:
    """Everybody's ratings, and what they say of a rating that is asked for."""

    def __init__(self, config: NeighbourSettings, by_user: bool, values_UI: csr_array[Any], centre: Centre) -> None:
        """Of a table of ratings; ``by_user``: users are compared, else items."""
        self.config, self.by_user, self.centre, self.values_UI = config, by_user, centre, values_UI
        self._like = MEASURES[config.similarity]
        self._levels_L = levels_of(values_UI.data, config.similarity) if config.similarity in DISTRIBUTIONS else None
        self._limits = values_UI.data.min(), values_UI.data.max()
        everyone = self._people(values_UI, np.arange(values_UI.shape[0], dtype=np.int32))
        self._by_user = arrays_of(everyone.apart_NI)
        self._told = arrays_of(by_item(everyone.apart_NI)) if by_user else self._by_user
        """Deviations by item, whoever rated it; or where items are compared by user."""
        self._table = self._compared(everyone, None)

    @classmethod
    def of(cls, train: Dataset, config: NeighbourSettings, by_user: bool, model: str) -> Self:
        """The ratings of ``train``; ``model`` is named where there are none."""
        ratings_of(train, model)
        values_UI = mean_values(valued(train.histories), train.n_items)
        ridge = config.sweeps, config.l2_user, config.l2_item
        return cls(config, by_user, values_UI, Centre.of(values_UI, config.centre, by_user, *ridge))

    def predict(self, users: Codes, items: Codes) -> Scores:
        """``(T,)`` the value that each user would give each item."""
        rows, lists = (users, items) if self.by_user else (items, users)
        wanted, place_T = np.unique(rows, return_inverse=True)
        order = np.argsort(place_T, kind="stable")
        found_T = np.zeros(len(rows), np.float32)
        step = max(1, BLOCK_CELLS // len(self._table))
        for start in range(0, len(wanted), step):
            block = wanted[start : start + step].astype(np.int32)
            like_BR = self._likeness(self._table.take(block), block)
            begin, end = np.searchsorted(place_T[order], (start, start + step))
            asked_T = order[begin:end]
            found_T[asked_T] = self._of_questions(place_T[asked_T] - start, lists[asked_T], like_BR)
        found_T *= self.centre.units[rows]
        found_T += self.centre.mean + self.centre.users_U[users] + self.centre.items_I[items]
        return self.in_scale(found_T)

    def in_scale(self, scores: Scores) -> Scores:
        """See :meth:`segue.core.model.Predictor.in_scale`."""
        return np.clip(scores, *self._limits) if self.config.clip else scores

    def score(self, queries: Queries) -> Scores:
        """``(N, I)`` the value that each person would give each item, folded in from the values of his history.

        A known user whose history has no values is as he was in training.
        """
        people = self._asking(queries)
        found_NI = self._from_users(people) if self.by_user else self._from_items(people.apart_NI)
        found_NI *= people.units_N[:, None] if self.by_user else self.centre.units
        found_NI += self.centre.items_I
        found_NI += (self.centre.mean + people.users_N)[:, None]
        return found_NI

    def similar_items(self, items: Codes) -> Scores:
        """``(len(items), I)`` where items are compared; 0 for the item itself."""
        return self._likeness(self._table.take(items), items)

    def similar_users(self, queries: Queries) -> Scores:
        """``(N, U)`` where users are compared; 0 for a known user himself."""
        people = self._asking(queries)
        return self._likeness(self._compared(people, self._table), people.itself_N)

    def arrays(self) -> Arrays:
        """Everybody's ratings, and the centre."""
        offsets, items, values = arrays_of(self.values_UI)
        centre = self.centre
        return {
            "offsets": offsets,
            "items": items,
            "values": values,
            "centre": np.array([centre.mean, centre.unit], np.float32),
            "centre_users": centre.users_U,
            "centre_items": centre.items_I,
            "units": centre.units,
        }

    @classmethod
    def restored(cls, arrays: Arrays, config: NeighbourSettings, by_user: bool, domain: Domain) -> Self:
        """From what :meth:`arrays` gave."""
        n_users, n_items = domain.n_users, domain.n_items
        values = take_back(arrays, "values", (None,), np.float32)
        items = take_back(arrays, "items", (len(values),), np.int32)
        offsets = take_back(arrays, "offsets", (n_users + 1,), np.int64)
        mean, unit = take_back(arrays, "centre", (2,), np.float32)
        users_U = take_back(arrays, "centre_users", (n_users,), np.float32)
        items_I = take_back(arrays, "centre_items", (n_items,), np.float32)
        units = take_back(arrays, "units", (n_users if by_user else n_items,), np.float32)
        centre = Centre(config.centre, mean, users_U, items_I, units, unit, config.l2_user)
        return cls(config, by_user, csr_array((values, items, offsets), shape=(n_users, n_items)), centre)

    def _asking(self, queries: Queries) -> _People:
        values_NI = mean_values(valued(queries.history), self.values_UI.shape[1])
        itself_N = np.where(queries.known, queries.users, -1).astype(np.int32)
        stored_N = (np.diff(values_NI.indptr) == 0) & queries.known
        if stored_N.any():
            rows = np.where(stored_N, len(queries) + itself_N, np.arange(len(queries)))
            values_NI = csr_array(vstack([values_NI, self.values_UI], format="csr")[rows])
        return self._people(values_NI, itself_N)

    def _people(self, values_NI: csr_array[Any], itself_N: Codes) -> _People:
        users_N, units_N = self.centre.people(values_NI, self.by_user)
        rows, items = np.repeat(np.arange(len(users_N)), np.diff(values_NI.indptr)), values_NI.indices
        apart = values_NI.data - self.centre.mean - users_N[rows] - self.centre.items_I[items]
        apart /= units_N[rows] if self.by_user else self.centre.units[items]
        apart_NI = csr_array((apart, items, values_NI.indptr), shape=values_NI.shape)
        return _People(values_NI, apart_NI, users_N, units_N, itself_N)

    def _compared(self, people: _People, beside: Table | None) -> Table:
        """What the measure looks at; ``beside``: with whom they are compared, where not with each other."""
        deviations = self._levels_L is None and self.config.compare == "deviations"
        rows = people.apart_NI if deviations else people.values_NI
        rows = rows if self.by_user else by_item(rows)
        return Table.of(rows, beside) if self._levels_L is None else level_table(rows, self._levels_L, beside)

    def _likeness(self, asked: Table, itself: Codes) -> Scores:
        return likeness(asked, self._table, self._like, self.config.shrink, itself)

    def _from_users(self, people: _People) -> Scores:
        out = np.empty(people.values_NI.shape, np.float32)
        step = max(1, BLOCK_CELLS // len(self._table))
        for start in range(0, len(out), step):
            part = people.block(start, start + step)
            like_BR = self._likeness(self._compared(part, self._table), part.itself_N)
            self._shared_out(weighted_mean_kernels.of_everyone, self._by_user, like_BR, out[start : start + step])
        return out

    def _from_items(self, apart_NI: csr_array[Any]) -> Scores:
        n, n_items = apart_NI.shape
        distinct_D, codes = np.unique(apart_NI.indices, return_inverse=True)
        if len(distinct_D) * n_items > HELD_CELLS and n > 1:
            return np.concatenate([self._from_items(apart_NI[: n // 2]), self._from_items(apart_NI[n // 2 :])])
        like_ID = np.ascontiguousarray(self._likeness(self._table.take(distinct_D), distinct_D.astype(np.int32)).T)
        offsets, _, told = arrays_of(apart_NI)
        out_NI = np.empty((n, n_items), np.float32)
        self._shared_out(weighted_mean_kernels.of_histories, (offsets, codes.astype(np.int32), told), like_ID, out_NI)
        return out_NI

    def _shared_out(self, average: Any, told: tuple[Any, ...], like: Scores, out_NI: Scores) -> None:
        def work(first: int, stop: int) -> None:
            average(first, stop, *told, like, self.config.neighbours, self.config.min_neighbours, out_NI)

        over_rows(work, np.arange(len(out_NI) + 1))

    def _of_questions(self, rows: NDArray[np.int64], lists: Codes, like_BR: Scores) -> Scores:
        out = np.empty(len(rows), np.float32)
        rows, lists = np.ascontiguousarray(rows, np.int64), np.ascontiguousarray(lists, np.int32)

        def work(first: int, stop: int) -> None:
            counts = self.config.neighbours, self.config.min_neighbours
            weighted_mean_kernels.of_questions(first, stop, rows, lists, *self._told, like_BR, *counts, out)

        over_rows(work, np.concatenate([[0], np.cumsum(np.diff(self._told[0])[lists])]))
        return out
