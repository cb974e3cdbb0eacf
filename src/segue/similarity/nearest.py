"""The nearest rows of each row, found block by block: memory grows with rows x neighbours, not with rows².

Shapes: N rows asked about, R rows, P pairs of a block, K neighbours, C columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numba import float32, int32, int64
from numpy.typing import NDArray
from scipy.sparse import csr_array

from segue.core.memory_check import need
from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores
from segue.similarity.row_pairs import Pairs, meetings, pairs_of
from segue.similarity.similarity_registry import Measure
from segue.similarity.sparse_rows import Table

__all__ = ["Rows", "arrays_of", "likeness", "nearest", "spread"]

Rows: TypeAlias = tuple[NDArray[np.int64], Codes, Scores]
"""Offsets, columns and values of sparse rows."""


def nearest(
    asked: Table,
    table: Table,
    like: Measure,
    shrink: float,
    count: int,
    itself: Codes | None = None,
    progress: Callable[[int], None] | None = None,
) -> csr_array[Any]:
    """``(N, R)`` the likeness of each row asked about to its ``count`` nearest, those of likeness above 0.

    Of equals, the first in the table is nearer.

    Args:
        itself: ``(N,)`` the row of ``table`` that is no neighbour of each, being the same; -1: none.
        progress: told the number of rows that are done.
    """
    # a row has no more neighbours than rows that it meets
    room = np.minimum(np.diff(meetings(asked, table)), min(count, len(table)))
    starts = np.concatenate([[0], np.cumsum(room)])
    items, scores = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    lengths = np.zeros(len(asked), np.int64)

    def work(first: int, stop: int) -> None:
        for pairs, found in _blocks(asked, table, like, shrink, itself, first, stop):
            _select(pairs.first, count, pairs.offsets, pairs.others, found, starts, items, scores, lengths)
            if progress is not None:
                progress(pairs.stop - pairs.first)

    over_rows(work, meetings(asked, table))
    there = np.arange(starts[-1]) < np.repeat(starts[:-1] + lengths, room)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return csr_array((scores[there], items[there], offsets), shape=(len(asked), len(table)))


def likeness(asked: Table, table: Table, like: Measure, shrink: float, itself: Codes | None = None) -> Scores:
    """``(N, R)`` of every row, 0 where there is nothing in common; dense, and so for some rows at a time.

    Raises:
        ValueError: that does not fit in memory.
    """
    what = f"neighbours: the likeness of {len(asked):,} x {len(table):,} rows"
    need(what, len(asked) * len(table), "keep fewer users or items (min_user_events, min_item_events)")
    out = np.zeros((len(asked), len(table)), np.float32)

    def work(first: int, stop: int) -> None:
        for pairs, found in _blocks(asked, table, like, shrink, itself, first, stop):
            out[pairs.rows, pairs.others] = found

    over_rows(work, meetings(asked, table))
    return out


def _blocks(
    asked: Table, table: Table, like: Measure, shrink: float, itself: Codes | None, first: int, stop: int
) -> Iterator[tuple[Pairs, Scores]]:
    for pairs in pairs_of(asked, table, first, stop):
        found = np.ascontiguousarray(like(pairs, shrink), np.float32)
        if itself is not None:
            found[pairs.others == itself[pairs.rows]] = 0.0
        yield pairs, found


def spread(weights_NR: csr_array[Any], rows: Rows, n_columns: int) -> Scores:
    """``(N, C)`` the weighted sums of the sparse ``rows (R, C)``, as ``(weights_NR @ rows).toarray()``."""
    out = np.zeros((weights_NR.shape[0], n_columns), np.float32)
    left = arrays_of(weights_NR)

    def work(first: int, stop: int) -> None:
        _spread(first, stop, *left, *rows, out)

    over_rows(work, left[0])
    return out


def arrays_of(rows: csr_array[Any]) -> Rows:
    """Offsets, columns and values of a sparse matrix, in the types that compiled loops read."""
    return (
        rows.indptr.astype(np.int64, copy=False),
        rows.indices.astype(np.int32, copy=False),
        np.ascontiguousarray(rows.data, np.float32),
    )


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(int64),
    written(int32),
    written(float32),
    written(int64),
)
def _select(
    first: int,
    most: int,
    offsets: NDArray[np.int64],
    others: Codes,
    found: Scores,
    starts: NDArray[np.int64],
    items: Codes,
    scores: Scores,
    lengths: NDArray[np.int64],
) -> None:
    """The ``most`` greatest of each row, in the order of the table; row 0 of the pairs is row ``first`` of all."""
    for row in range(len(offsets) - 1):
        begin, end = offsets[row], offsets[row + 1]
        above = 0
        for p in range(begin, end):
            above += 1 if found[p] > 0.0 else 0
        least, room = np.float32(0.0), 0
        if above > most:
            least = np.partition(found[begin:end], end - begin - most)[end - begin - most]
            greater = 0
            for p in range(begin, end):
                greater += 1 if found[p] > least else 0
            room = most - greater
        place = starts[first + row]
        for p in range(begin, end):
            if found[p] > least or (found[p] == least and room > 0):
                room -= 1 if found[p] == least else 0
                items[place] = others[p]
                scores[place] = found[p]
                place += 1
        lengths[first + row] = place - starts[first + row]


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(int64),
    read(int32),
    read(float32),
    written(float32, 2),
)
def _spread(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    codes: Codes,
    weights: Scores,
    row_offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    out: Scores,
) -> None:
    for n in range(first, stop):
        for e in range(offsets[n], offsets[n + 1]):
            row, weight = codes[e], weights[e]
            begin, end = row_offsets[row], row_offsets[row + 1]
            its, held = columns[begin:end], values[begin:end]
            for t in range(len(its)):
                out[n, np.uint32(its[t])] += weight * held[t]
