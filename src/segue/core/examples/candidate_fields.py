"""Divide the fields of examples of a query by what they depend on.

Of many candidates of one query, the fields of an item are the same for every query, and those of the user, the context
and the history are the same for every candidate. Only numbers of the retrieval depend on both.

Shapes: T pairs of a query and an item.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segue.core.examples.fields import Field, fields_of_kind
from segue.core.examples.log_fields import ITEM

__all__ = ["CandidateFields", "rows_of_queries"]


@dataclass(frozen=True)
class CandidateFields:
    """Names of fields by what they depend on."""

    items: frozenset[str]
    """Fields of the item alone."""
    queries: frozenset[str]
    """Fields of the user, the context and the history."""
    candidates: tuple[str, ...]
    """Numbers that depend on both, the last fields of numbers."""

    @classmethod
    def of(cls, fields: Sequence[Field], n_numbers: int) -> CandidateFields:
        """Divide the fields of a log, and ``n_numbers`` numbers of candidates.

        See :func:`segue.core.examples.log_fields.log_fields`.
        """
        numbers = fields_of_kind(fields, "number")
        candidates = tuple(one.name for one in numbers[len(numbers) - n_numbers :])
        names = {one.name for one in fields} - set(candidates)
        items = frozenset(name for name in names if name == ITEM or name.startswith(f"{ITEM}."))
        return cls(items, frozenset(names - items), candidates)

    def positions(self, fields: Sequence[Field]) -> tuple[list[int], list[int], list[int]]:
        """Return where the fields of items, queries and candidates are in a list.

        Args:
            fields: some of the fields.
        """
        names = [one.name for one in fields]
        groups = (self.items, self.queries, self.candidates)
        items, queries, candidates = ([at for at, name in enumerate(names) if name in group] for group in groups)
        return items, queries, candidates


def rows_of_queries(rows_T: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Yield each query and its pairs.

    Args:
        rows_T: query of each pair, in ascending order.
    """
    bounds = [0, *(np.flatnonzero(np.diff(rows_T)) + 1).tolist(), len(rows_T)]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield int(rows_T[start]), slice(start, stop)
