"""The recommendation lists that metrics beyond accuracy are computed from.

Shapes: N queries, k positions of a list, I items, M selected queries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, HeldOut, Mask, Recommendations
from segue.evaluation.beyond_accuracy.training_data import TrainingData

__all__ = ["Lists", "Values"]

Values: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lists:
    """One list per query, with what is known about its user and its items."""

    items: Codes
    """``(N, k)``; meaningless where ``is_used`` is false."""
    is_used: Mask
    """``(N, k)`` false after the end of a list that is shorter than k."""
    held_out: HeldOut
    """Histories and true items of the queries."""
    training: TrainingData
    candidates: Mask | None = None
    """``(I,)`` items that were ranked; ``None``: all of them."""
    labels: Callable[[str], Sequence[str]] | None = None
    """Returns the ``(N,)`` labels of the users by a user feature; ``None``: user features are not known."""
    accuracy: Callable[[str], Values] | None = None
    """Computes the ``(N,)`` values of a ranking metric by its name."""
    whole: Lists | None = None
    """The lists before :meth:`cut`; ``None``: these."""
    history_distances: dict[str | None, Values] = field(default_factory=dict)
    """Distances of the items of the whole lists to the history, by item feature; computed once for all cutoffs."""

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, top: Recommendations, held_out: HeldOut, training: TrainingData) -> Lists:
        """Take the lists of all queries at their full length."""
        return cls(top.items, np.arange(top.items.shape[1]) < top.lengths[:, None], held_out, training)

    def cut(self, k: int) -> Lists:
        """Return the first ``k`` items of each list."""
        return replace(self, items=self.items[:, :k], is_used=self.is_used[:, :k], whole=self.whole or self)

    def take(self, rows: NDArray[np.int64]) -> Lists:
        """Return the lists of some queries, without labels and accuracy."""
        held_out = replace(
            self.held_out, queries=self.held_out.queries.take(rows), targets=self.held_out.targets.take(rows)
        )
        return Lists(self.items[rows], self.is_used[rows], held_out, self.training, self.candidates)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """``(N,)`` items per list."""
        return np.asarray(np.count_nonzero(self.is_used, axis=1), np.int64)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of lists with each item that was ranked, in the order of their codes."""
        counts_I = np.bincount(self.items[self.is_used], minlength=self.training.n_items)
        return counts_I if self.candidates is None else counts_I[self.candidates]

    def mean(self, values_Nk: NDArray[np.float64]) -> Values:
        """Average values ``(N, k)`` over each list.

        NaN values are left out; a list without any value gets NaN.
        """
        has_value = self.is_used & ~np.isnan(values_Nk)
        n_values = np.count_nonzero(has_value, axis=1)
        total = np.where(has_value, values_Nk, 0.0).sum(axis=1)
        return np.where(n_values > 0, total / np.maximum(n_values, 1), np.nan)

    @cached_property
    def is_relevant(self) -> Mask:
        """``(N, k)`` whether an item of a list is a true item of its query."""
        targets = self.held_out.targets
        wanted = np.unique(targets.rows * self.training.n_items + targets.items)
        keys_Nk = np.arange(len(self))[:, None] * self.training.n_items + self.items
        at_Nk = np.searchsorted(wanted, keys_Nk)
        return np.asarray((np.append(wanted, -1)[at_Nk] == keys_Nk) & self.is_used, np.bool_)
