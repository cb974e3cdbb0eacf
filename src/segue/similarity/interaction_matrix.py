"""Build interaction matrices to compare rows of: counts, ones, or weighted counts.

Shapes: R rows, C columns, N histories, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.registry import exported_functions
from segue.core.types import Events
from segue.similarity import weighting
from segue.similarity.settings import NeighborSettings
from segue.similarity.sparse_rows import SparseRows
from segue.similarity.weighting import Corpus

__all__ = ["interaction_counts", "weighted_rows"]


def interaction_counts(histories: Events, n_items: int) -> csr_array[Any]:
    """Return the ``(N, I)`` number of events of each row with each item."""
    return histories.csr(n_items, np.ones(histories.size, np.float32))


def weighted_rows(
    counts_RC: csr_array[Any],
    config: NeighborSettings,
    corpus: Corpus | None = None,
    reference: SparseRows | None = None,
    histories: Events | None = None,
) -> SparseRows:
    """Weight the counts as configured, for similarity measures.

    Args:
        counts_RC: number of events per cell.
        config: names the weighting; without one, every stored cell is 1.
        corpus: statistics for the weighting; default: those of ``counts_RC``.
        reference: rows that these are compared with; default: themselves.
        histories: the rows as event sequences, for sequence measures.
    """
    if config.weighting is None:
        ones = np.ones(len(counts_RC.data), np.float32)
        rows = csr_array((ones, counts_RC.indices, counts_RC.indptr), shape=counts_RC.shape)
    else:
        weighting_function = exported_functions(weighting)[config.weighting]
        rows = weighting_function(counts_RC, corpus or Corpus.of(counts_RC), config.bm25_k1, config.bm25_b)
    return SparseRows.from_csr(rows, reference, histories)
