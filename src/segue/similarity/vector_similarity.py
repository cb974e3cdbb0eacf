"""How alike learned vectors are: factors and embeddings; each function here is a choice by its name.

Shapes: N vectors asked about, R vectors, D width.
"""

from __future__ import annotations

import numpy as np

from segue.core.types import Scores

__all__ = ["vector_cosine", "vector_dot", "vector_euclidean"]


def vector_cosine(asked_ND: Scores, vectors_RD: Scores) -> Scores:
    """Cosine of the angle; 0 where one of the vectors is zero."""
    likeness: Scores = _unit(asked_ND) @ _unit(vectors_RD).T
    return likeness


def vector_dot(asked_ND: Scores, vectors_RD: Scores) -> Scores:
    """Inner product: long vectors, those of what is popular, are like more."""
    likeness: Scores = asked_ND @ vectors_RD.T
    return likeness


def vector_euclidean(asked_ND: Scores, vectors_RD: Scores) -> Scores:
    """``1 / (1 + d)``, d the distance in a straight line."""
    squares_N, squares_R = ((rows.astype(np.float64) ** 2).sum(axis=1) for rows in (asked_ND, vectors_RD))
    apart_NR = squares_N[:, None] + squares_R - 2.0 * (asked_ND.astype(np.float64) @ vectors_RD.T.astype(np.float64))
    likeness: Scores = (1.0 / (1.0 + np.sqrt(np.maximum(apart_NR, 0.0)))).astype(np.float32)
    return likeness


def _unit(rows_RD: Scores) -> Scores:
    norms_R = np.linalg.norm(rows_RD, axis=1, keepdims=True)
    unit_RD: Scores = rows_RD / np.maximum(norms_R, np.finfo(np.float32).tiny)
    return unit_RD
