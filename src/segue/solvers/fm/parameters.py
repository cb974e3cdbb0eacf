"""Parameters and scores of a factorization machine.

Rendle 2010, doi:10.1109/ICDM.2010.127.

With x the features of a rating, the score is ``intercept + sum_c w_c x_c + sum_{c<c'} (v_c . v_c') x_c x_c'``. Other
blocks depend on a row of a relational block only through its bias, which includes all interactions within the row, and
its vector. A score is the sum of the biases of its rows and of the inner products of pairs of their vectors:

    q_r = sum_c x_rc v_c        b_r = sum_c w_c x_rc + (|q_r|² - sum_c x_rc² |v_c|²) / 2

Shapes: T ratings, U users, B blocks, R rows of a block, S rows of all blocks, C columns of all blocks, D dimensions, G
groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.model import StateArrays
from segue.core.model_arrays import load_array
from segue.core.numba_kernels import fastmath_kernel, input_array, output_array, parallel_rows
from segue.core.types import Codes, Scores
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["Parameters", "row_sums", "sum_scores"]

Numbers = NDArray[np.float64]

INITIAL_VARIANCE = 0.1
"""Share of the ratings' variance that the initial factors produce; with a learned prior, factors that start too
small stay at zero.
"""

INITIAL_DEGREES_OF_FREEDOM = 10.0
"""Initial degrees of freedom of the users' noise."""


@dataclass(eq=False)
class Parameters:
    """State of the sampler or solver; its arrays are updated in place."""

    intercept: Numbers
    """``(1,)``"""
    linear_C: Numbers
    """w"""
    factors_DC: Numbers
    """v, by dimension"""
    noise_precision: Numbers
    """``(1,)`` precision of ratings around their scores."""
    user_precision_U: Numbers
    """``(U,)`` relative noise precision of the ratings of each user."""
    degrees_of_freedom: Numbers
    """``(1,)`` of the prior of relative precisions; more keep them closer to 1."""
    means: Numbers
    """``(1 + D, G)`` means of the priors, those of w first."""
    precisions: Numbers
    """``(1 + D, G)`` precisions of the priors, likewise."""

    @classmethod
    def initialize(cls, relations: Relations, width: int, rng: np.random.Generator) -> Parameters:
        """Create small random factors; other coefficients are 0, precisions 1."""
        scale = (INITIAL_VARIANCE / max(width, 1)) ** 0.25
        factors_DC = scale * rng.standard_normal((width, relations.columns))
        shape = width + 1, len(relations.sizes_G)
        user_precision_U = np.ones(int(relations.row_starts_B[1]))
        return cls(
            intercept=np.zeros(1),
            linear_C=np.zeros(relations.columns),
            factors_DC=factors_DC,
            noise_precision=np.ones(1),
            user_precision_U=user_precision_U,
            degrees_of_freedom=np.full(1, INITIAL_DEGREES_OF_FREEDOM),
            means=np.zeros(shape),
            precisions=np.ones(shape),
        )

    def arrays(self) -> StateArrays:
        """Return all arrays by name."""
        return {f"state/{name}": np.array(array) for name, array in vars(self).items()}

    def from_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Parameters:
        """Load what :meth:`arrays` of another state of the same training returned."""
        shapes = {name: array.shape for name, array in vars(self).items()}
        loaded = {name: load_array(arrays, f"state/{name}", shape, np.float64) for name, shape in shapes.items()}
        return Parameters(**{name: np.array(array) for name, array in loaded.items()})


def row_sums(features_RC: Any, linear_C: Numbers, factors_DC: Numbers) -> tuple[Numbers, Numbers]:
    """Compute ``(R,)`` b and ``(R, D)`` q of rows of sparse features."""
    rows, width = features_RC.shape[0], len(factors_DC)
    biases_R, vectors_RD = np.empty(rows), np.empty((rows, width))
    offsets = features_RC.indptr.astype(np.int64)
    columns, values = features_RC.indices.astype(np.int32), features_RC.data.astype(np.float32)
    coefficients = np.ascontiguousarray(linear_C), np.ascontiguousarray(factors_DC.T)

    def process_rows(first: int, stop: int) -> None:
        _sum_rows(first, stop, offsets, columns, values, *coefficients, biases_R, vectors_RD)

    parallel_rows(process_rows, offsets)
    return biases_R, vectors_RD


def sum_scores(intercept: float, rows_BT: Codes, biases_S: Numbers, vectors_SD: Numbers) -> Scores:
    """Compute ``(T,)`` scores from the rows that each rating reads."""
    scores_T = np.empty(rows_BT.shape[1], np.float32)
    rows = biases_S.astype(np.float32), vectors_SD.astype(np.float32)

    def process_ratings(first: int, stop: int) -> None:
        _score(first, stop, rows_BT, intercept, *rows, scores_T)

    parallel_rows(process_ratings, np.arange(len(scores_T) + 1))
    return scores_T


@fastmath_kernel(
    int64,
    int64,
    input_array(int64),
    input_array(int32),
    input_array(float32),
    input_array(float64),
    input_array(float64, 2),
    output_array(float64),
    output_array(float64, 2),
)
def _sum_rows(
    first: int,
    stop: int,
    offsets: NDArray[np.int64],
    columns: Codes,
    values: Scores,
    linear: Numbers,
    factors: Numbers,
    biases: Numbers,
    vectors: Numbers,
) -> None:
    width = factors.shape[1]
    for row in range(first, stop):
        vector = vectors[row]
        vector[:] = 0.0
        bias = 0.0
        squares = 0.0
        for cell in range(offsets[row], offsets[row + 1]):
            column, value = columns[cell], values[cell]
            bias += value * linear[column]
            for d in range(width):
                row_range = value * factors[column, d]
                vector[d] += row_range
                squares += row_range * row_range
        total = 0.0
        for d in range(width):
            total += vector[d] * vector[d]
        biases[row] = bias + 0.5 * (total - squares)


@fastmath_kernel(
    int64, int64, input_array(int32, 2), float64, input_array(float32), input_array(float32, 2), output_array(float32)
)
def _score(
    first: int,
    stop: int,
    rows_BT: Codes,
    intercept: float,
    biases: Scores,
    vectors: Scores,
    out: Scores,
) -> None:
    blocks, width = rows_BT.shape[0], vectors.shape[1]
    for t in range(first, stop):
        total = intercept
        for b in range(blocks):
            first_row = rows_BT[b, t]
            total += biases[first_row]
            for c in range(b):
                second_row = rows_BT[c, t]
                product = np.float32(0.0)
                for d in range(width):
                    product += vectors[first_row, d] * vectors[second_row, d]
                total += product
        out[t] = total
