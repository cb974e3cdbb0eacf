"""Kept states of a factorisation machine, as answers need them, and what they expect of ratings together.

Of each state only rows are kept: a bias and a vector for each user, item and period (see
:mod:`segue.solvers.fm.parameters`), and what newcomers need. A prediction is the mean over the states of what
each expects of the rating, which is the posterior mean, not what a mean state would expect.

Shapes: M kept states, U users, I items, P periods, F columns of newcomers, W = 1 + D bias and vector, J cuts, K levels,
N queries, T pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numba import float32, int32

from segue.core.model import Arrays
from segue.core.model_arrays import take_back
from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Domain, Mask, Scores
from segue.solvers.bayesian.probit_expectation import CHANCES, add_expected, chance

__all__ = ["Samples"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Any number of kept states; all numbers are float32."""

    offsets: Scores
    """``(M, 1)``"""
    noises: Scores
    """``(M, 1)`` precision of ratings about their scores."""
    users: Scores
    """``(M, U, W)``"""
    items: Scores
    """``(M, I, W)``"""
    dates: Scores
    """``(M, P, W)``; no rows without dates, else the last is of no known period."""
    roots: Scores
    """``(M, U)`` roots of what the noise's precision is multiplied with for each user; no columns where all are 1, or
    do not matter."""
    cuts: Scores
    """``(M, J)``"""
    values: Scores
    """``(1, K)`` what levels stand for, or ``(1, 2)`` mean and standard deviation that scores are in terms of."""
    columns: Scores
    """``(M, F, W)`` coefficients of what is known of newcomers."""
    means: Scores
    """``(M, W)`` of the prior of what a user has for himself."""
    precisions: Scores
    """``(M, W)`` of the same."""
    ordered: bool

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """All states of ``parts``, which are of one training."""
        names = [field.name for field in fields(cls) if field.name not in ("values", "ordered")]
        joined: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], **joined)

    def arrays(self) -> Arrays:
        """All of them, by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ordered"}

    @classmethod
    def restored(cls, arrays: Arrays, domain: Domain, width: int, ordered: bool) -> Samples:
        """Take back what :meth:`arrays` gave; a missing name or another shape is a ``ValueError``."""
        states = take_back(arrays, "offsets", (None, 1), np.float32).shape[0]
        levels = take_back(arrays, "values", (1, None), np.float32).shape[1]
        wide = width + 1
        shapes: dict[str, tuple[int | None, ...]] = {
            "offsets": (states, 1),
            "noises": (states, 1),
            "users": (states, domain.n_users, wide),
            "items": (states, domain.n_items, wide),
            "dates": (states, None, wide),
            "roots": (states, None),
            "cuts": (states, levels - 1 if ordered else 0),
            "values": (1, levels if ordered else 2),
            "columns": (states, None, wide),
            "means": (states, wide),
            "precisions": (states, wide),
        }
        found = {name: take_back(arrays, name, shape, np.float32) for name, shape in shapes.items()}
        return cls(**found, ordered=ordered)

    def __len__(self) -> int:
        """M."""
        return len(self.offsets)

    def roots_of(self, users: Codes, known: Mask) -> Scores:
        """``(M, N)`` roots of what the noise's precision is multiplied with; 1 of who is not ``known``."""
        if not self.roots.shape[1]:
            return np.ones((len(self), len(users)), np.float32)
        return np.where(known, self.roots[:, users], np.float32(1.0))

    def of(self, persons_MNW: Scores, dates_N: Codes) -> Scores:
        """``(M, N, W)`` persons, each at a period: to items these are one row."""
        if not self.dates.shape[1]:
            return persons_MNW
        when_MNW = self.dates[:, dates_N]
        found_MNW = persons_MNW + when_MNW
        found_MNW[:, :, 0] += np.einsum("mnd,mnd->mn", persons_MNW[:, :, 1:], when_MNW[:, :, 1:])
        return found_MNW

    def ratings(self, persons_MNW: Scores, roots_MN: Scores) -> Scores:
        """``(N, I)`` what is expected of every item."""
        totals_NI = np.zeros((persons_MNW.shape[1], self.items.shape[1]), np.float32)
        for m in range(len(self)):
            scores_NI = persons_MNW[m, :, 1:] @ self.items[m, :, 1:].T
            scores_NI += persons_MNW[m, :, :1] + self.offsets[m]
            scores_NI += self.items[m, :, 0]
            if self.ordered:
                add_expected(scores_NI, roots_MN[m], self.cuts[m], self.values[0], totals_NI)
            else:
                totals_NI += scores_NI
        return self._mean(totals_NI)

    def pairs(self, users: Codes, items: Codes, dates: Codes) -> Scores:
        """``(T,)`` what is expected of each user's rating of an item, at a period."""
        who, what, when = (np.ascontiguousarray(code, np.int32) for code in (users, items, dates))
        tables = self.users, self.items, self.dates, self.roots
        levels = CHANCES, self.cuts, self.values[0] if self.ordered else np.zeros(0, np.float32)
        offsets = np.ascontiguousarray(self.offsets[:, 0])
        totals_T = np.zeros(len(users), np.float32)

        def work(first: int, stop: int) -> None:
            part = slice(first, stop)
            _pair(who[part], what[part], when[part], offsets, *tables, *levels, totals_T[part])

        over_rows(work, np.arange(len(users) + 1))
        return self._mean(totals_T)

    def _mean(self, totals: Scores) -> Scores:
        """In the scale of the data."""
        totals /= len(self)
        if not self.ordered:
            totals *= self.values[0, 1]
            totals += self.values[0, 0]
        return totals


@summing_kernel(
    read(int32),
    read(int32),
    read(int32),
    read(float32),
    read(float32, 3),
    read(float32, 3),
    read(float32, 3),
    read(float32, 2),
    read(float32),
    read(float32, 2),
    read(float32),
    written(float32),
)
def _pair(
    users: Codes,
    items: Codes,
    dates: Codes,
    offsets: Scores,
    user_rows: Scores,
    item_rows: Scores,
    date_rows: Scores,
    roots: Scores,
    chances: Scores,
    cuts: Scores,
    values: Scores,
    totals: Scores,
) -> None:
    width = user_rows.shape[2]
    for m in range(len(offsets)):
        for t in range(len(users)):
            user, item = user_rows[m, users[t]], item_rows[m, items[t]]
            score = offsets[m] + user[0] + item[0]
            for d in range(1, width):
                score += user[d] * item[d]
            if date_rows.shape[1]:
                date = date_rows[m, dates[t]]
                score += date[0]
                for d in range(1, width):
                    score += date[d] * (user[d] + item[d])
            if len(values):
                root = roots[m, users[t]] if roots.shape[1] else np.float32(1.0)
                total = values[0]
                for j in range(cuts.shape[1]):
                    total += chance(chances, (score - cuts[m, j]) * root) * (values[j + 1] - values[j])
                score = total
            totals[t] += score
