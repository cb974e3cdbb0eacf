"""Compare dense vectors, such as factors and embeddings.

Each exported function is a similarity measure, selected by its name.

Shapes: N query vectors, R reference vectors, D dimensions.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores

__all__ = ["vector_cosine", "vector_dot", "vector_euclidean"]


def vector_cosine(queries_ND: Scores, vectors_RD: Scores) -> Scores:
    """Compute the cosine; 0 where one of the vectors is zero."""
    similarity_NR: Scores = _normalize(queries_ND) @ _normalize(vectors_RD).T
    return similarity_NR


def vector_dot(queries_ND: Scores, vectors_RD: Scores) -> Scores:
    """Compute the inner product.

    It favors long vectors, such as those of popular items.
    """
    similarity_NR: Scores = queries_ND @ vectors_RD.T
    return similarity_NR


def vector_euclidean(queries_ND: Scores, vectors_RD: Scores) -> Scores:
    """Compute ``1 / (1 + d)``, with d the Euclidean distance."""
    squares_N, squares_R = ((rows.astype(np.float64) ** 2).sum(axis=1) for rows in (queries_ND, vectors_RD))
    squared_NR = (
        squares_N[:, None] + squares_R - 2.0 * (queries_ND.astype(np.float64) @ vectors_RD.T.astype(np.float64))
    )
    similarity_NR: Scores = (1.0 / (1.0 + np.sqrt(np.maximum(squared_NR, 0.0)))).astype(np.float32)
    return similarity_NR


def _normalize(rows_RD: Scores) -> Scores:
    norms_R = np.linalg.norm(rows_RD, axis=1, keepdims=True)
    unit_RD: Scores = rows_RD / np.maximum(norms_R, np.finfo(np.float32).tiny)
    return unit_RD
