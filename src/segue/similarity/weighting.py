"""Weight interaction counts before rows are compared.

Uninformative columns then count less.

Each exported function is a weighting, selected by its name. A row is treated as a document and its columns as the
words: an item that every user has interacted with says little about a user, and a user who has interacted with every
item says little about an item.

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
    """Statistics of the training rows.

    All rows are weighted by these, including those of queries.
    """

    n_rows: int
    """Number of nonempty rows."""
    containing: NDArray[np.int64]
    """``(C,)`` number of rows that have each column."""
    mean: float
    """Mean sum of a nonempty row."""

    @classmethod
    def of(cls, counts_RC: csr_array[Any]) -> Corpus:
        """Compute the statistics of a matrix of counts."""
        n_rows = int((np.diff(counts_RC.indptr) > 0).sum())
        containing = np.bincount(counts_RC.indices, minlength=counts_RC.shape[1])
        return cls(n_rows, containing, float(counts_RC.data.sum(dtype=np.float64)) / max(n_rows, 1))


def tfidf(counts_RC: csr_array[Any], corpus: Corpus, k1: float, b: float) -> csr_array[Any]:
    """Compute ``sqrt(n) (1 + ln((1 + rows) / (1 + containing)))``.

    n is the count of a cell.

    Salton and Buckley 1988, doi:10.1016/0306-4573(88)90021-0. ``k1`` and ``b`` are not used.
    """
    rarity_C = 1.0 + np.log((1.0 + corpus.n_rows) / (1.0 + corpus.containing))
    return _with_values(counts_RC, np.sqrt(counts_RC.data) * rarity_C[counts_RC.indices])


def bm25(counts_RC: csr_array[Any], corpus: Corpus, k1: float, b: float) -> csr_array[Any]:
    """Compute BM25 weights (Robertson and Zaragoza 2009, doi:10.1561/1500000019).

    ``ln(1 + (rows - containing + 0.5) / (containing + 0.5)) n (k1 + 1) / (n + k1 (1 - b + b sum / mean))``, with n the
    count of a cell.
    """
    missing_C = np.maximum(corpus.n_rows - corpus.containing, 0.0)
    rarity_C = np.log1p((missing_C + 0.5) / (corpus.containing + 0.5))
    sums_R = np.asarray(counts_RC.sum(axis=1), np.float64)
    saturation_R = k1 * (1.0 - b + b * sums_R / max(corpus.mean, 1e-12))
    n, rows = counts_RC.data.astype(np.float64), np.repeat(np.arange(counts_RC.shape[0]), np.diff(counts_RC.indptr))
    return _with_values(counts_RC, rarity_C[counts_RC.indices] * n * (k1 + 1.0) / (n + saturation_R[rows]))


def _with_values(counts_RC: csr_array[Any], values: NDArray[np.float64]) -> csr_array[Any]:
    """Return the matrix with other values in its cells."""
    return csr_array((values.astype(np.float32), counts_RC.indices, counts_RC.indptr), shape=counts_RC.shape)
