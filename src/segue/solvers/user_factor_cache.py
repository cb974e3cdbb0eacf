"""What was worked out for the people of training, for as long as their histories are what they were then.

Shapes: U users, N queries, D width, T events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Events, Mask, Queries, Scores

__all__ = ["Remembered"]


@dataclass(frozen=True, eq=False)
class Remembered:
    """A row of each user, and a fingerprint of the history that it was worked out from."""

    rows_UD: Scores
    prints_U: NDArray[np.uint64]

    @classmethod
    def of(cls, histories: Events, rows_UD: Scores, values: bool) -> Remembered:
        """``values``: whether the events' values matter too."""
        return cls(rows_UD, _prints(histories, values))

    def still(self, queries: Queries, values: bool) -> Mask:
        """``(N,)`` whether a query is of a known user with the history of then, in any order."""
        found: Mask = queries.known.copy()
        if found.any():
            found[found] = self.prints_U[queries.users[found]] == _prints(queries.history, values)[found]
        return found


def _prints(events: Events, values: bool) -> NDArray[np.uint64]:
    """``(N,)`` sums of well-mixed numbers of the events (splitmix64: Steele et al. 2014, doi:10.1145/2714064.2660195).

    Two histories share one by chance once in 2^64.
    """
    mixed = events.items.astype(np.uint64) + np.uint64(1)
    if values and events.values is not None:
        mixed ^= events.values.view(np.uint32).astype(np.uint64) << np.uint64(32)
    mixed *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    found: NDArray[np.uint64] = sums[events.offsets[1:]] - sums[events.offsets[:-1]]
    return found
