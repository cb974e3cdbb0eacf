"""What an event counts before rows are compared: columns that say little of a row weigh less; each function here is a
choice by its name.

A row is taken for a document and its columns for the words: a user who had everything says little of an item, as an
item that everybody had says little of a user.

Shapes: R rows, C columns, T cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

__all__ = ["bm25", "tfidf"]


@dataclass(frozen=True, eq=False)
class Corpus:
    """What rows are weighted by, which is that of the training data whoever asks."""

    rows: int
    """Rows that are not empty."""
    containing: NDArray[np.int64]
    """``(C,)`` rows that have each column."""
    mean: float
    """Mean sum of a row that is not empty."""

    @classmethod
    def of(cls, counts_RC: csr_array[Any]) -> Corpus:
        """Of a table of counts."""
        rows = int((np.diff(counts_RC.indptr) > 0).sum())
        containing = np.bincount(counts_RC.indices, minlength=counts_RC.shape[1])
        return cls(rows, containing, float(counts_RC.data.sum(dtype=np.float64)) / max(rows, 1))


def tfidf(counts_RC: csr_array[Any], corpus: Corpus, saturation: float, length: float) -> csr_array[Any]:
    """``sqrt(n) (1 + ln((1 + rows) / (1 + containing)))``, n events in the cell (Salton and Buckley 1988,
    doi:10.1016/0306-4573(88)90021-0)."""
    rarity_C = 1.0 + np.log((1.0 + corpus.rows) / (1.0 + corpus.containing))
    return _with(counts_RC, np.sqrt(counts_RC.data) * rarity_C[counts_RC.indices])


def bm25(counts_RC: csr_array[Any], corpus: Corpus, saturation: float, length: float) -> csr_array[Any]:
    """``ln(1 + (rows - containing + 0.5) / (containing + 0.5)) n (k + 1) / (n + k (1 - b + b sum / mean))``, k being
    ``saturation``, b ``length`` and n events in the cell (Robertson and Zaragoza 2009, doi:10.1561/1500000019)."""
    missing_C = np.maximum(corpus.rows - corpus.containing, 0.0)
    rarity_C = np.log1p((missing_C + 0.5) / (corpus.containing + 0.5))
    sums_R = np.asarray(counts_RC.sum(axis=1), np.float64)
    room_R = saturation * (1.0 - length + length * sums_R / max(corpus.mean, 1e-12))
    n, rows = counts_RC.data.astype(np.float64), np.repeat(np.arange(counts_RC.shape[0]), np.diff(counts_RC.indptr))
    return _with(counts_RC, rarity_C[counts_RC.indices] * n * (saturation + 1.0) / (n + room_R[rows]))


def _with(counts_RC: csr_array[Any], values: NDArray[np.float64]) -> csr_array[Any]:
    return csr_array((values.astype(np.float32), counts_RC.indices, counts_RC.indptr), shape=counts_RC.shape)
