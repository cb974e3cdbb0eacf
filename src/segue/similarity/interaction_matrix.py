"""Who had what as a table to be compared: every cell 1, or weighed by how much it says.

Shapes: R rows, C columns, N histories, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from segue.core.registry import functions
from segue.core.types import Events
from segue.similarity import weighting
from segue.similarity.settings import NeighbourSettings
from segue.similarity.sparse_rows import Table
from segue.similarity.weighting import Corpus

__all__ = ["event_counts", "event_table"]


def event_counts(histories: Events, n_items: int) -> csr_array[Any]:
    """``(N, I)`` how many events of each row are of each item."""
    return histories.csr(n_items, np.ones(histories.size, np.float32))


def event_table(
    counts_RC: csr_array[Any],
    config: NeighbourSettings,
    corpus: Corpus | None = None,
    beside: Table | None = None,
    histories: Events | None = None,
) -> Table:
    """What the measure looks at.

    Args:
        corpus: what rows are weighed by, where that is not the table itself.
        beside: with whose rows these are compared, where not with each other.
        histories: the rows as they happened, for measures of sequences.
    """
    if config.weighting is None:
        ones = np.ones(len(counts_RC.data), np.float32)
        rows = csr_array((ones, counts_RC.indices, counts_RC.indptr), shape=counts_RC.shape)
    else:
        weigh = functions(weighting)[config.weighting]
        rows = weigh(counts_RC, corpus or Corpus.of(counts_RC), config.saturation, config.length)
    return Table.of(rows, beside, histories)
