"""The numbers of a factorisation machine (Rendle 2010, doi:10.1109/ICDM.2010.127), and what a rating is by them.

With x the features of a rating, ``offset + sum_c w_c x_c + sum_{c<c'} (v_c . v_c') x_c x_c'``. Of a block of relations
only two things matter to the others: a row's bias, which holds all that happens within the row, and its vector. A
rating is then the sum of the biases of its rows and of the products of their vectors, two by two:

    q_r = sum_c x_rc v_c        b_r = sum_c w_c x_rc + (|q_r|² - sum_c x_rc² |v_c|²) / 2

Shapes: T ratings, U users, B blocks, R rows of a block, S rows of all blocks, C columns of all blocks, D width, G
groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float32, float64, int32, int64
from numpy.typing import NDArray

from segue.core.model import Arrays
from segue.core.model_arrays import take_back
from segue.core.numba_kernels import over_rows, read, summing_kernel, written
from segue.core.types import Codes, Scores
from segue.solvers.fm.relational_blocks import Relations

__all__ = ["Coefficients", "row_sums", "scores_of"]

Numbers = NDArray[np.float64]

SHARE = 0.1
"""Of the variance of ratings that all factors together make in the beginning: small ones are never found again where
their prior is learned."""

FREEDOM = 10.0
"""Degrees of freedom of the users' noise in the beginning."""


@dataclass(eq=False)
class Coefficients:
    """One state of the sampler, or of the solver; its arrays are written to."""

    offset: Numbers
    """``(1,)``"""
    linear_C: Numbers
    """w"""
    factors_DC: Numbers
    """v, by dimension"""
    noise: Numbers
    """``(1,)`` precision of ratings about what they are expected to be."""
    own_U: Numbers
    """``(U,)`` what it is multiplied with for each row of the first block: the ratings of each user."""
    freedom: Numbers
    """``(1,)`` of the prior of these: degrees of freedom; more are nearer to 1."""
    means: Numbers
    """``(1 + D, G)`` of the priors, those of w first."""
    precisions: Numbers
    """``(1 + D, G)`` of the priors, likewise."""

    @classmethod
    def begun(cls, relations: Relations, width: int, rng: np.random.Generator) -> Coefficients:
        """Small random factors, and all else zero; noise and precisions 1."""
        spread = (SHARE / max(width, 1)) ** 0.25
        factors_DC = spread * rng.standard_normal((width, relations.columns))
        shape = width + 1, len(relations.sizes_G)
        own_U = np.ones(int(relations.starts_B[1]))
        return cls(
            offset=np.zeros(1),
            linear_C=np.zeros(relations.columns),
            factors_DC=factors_DC,
            noise=np.ones(1),
            own_U=own_U,
            freedom=np.full(1, FREEDOM),
            means=np.zeros(shape),
            precisions=np.ones(shape),
        )

    def arrays(self) -> Arrays:
        """All of them, by name."""
        return {f"state/{name}": np.array(array) for name, array in vars(self).items()}

    def restored(self, arrays: Mapping[str, NDArray[Any]]) -> Coefficients:
        """What :meth:`arrays` of another state of the same training gave."""
        shapes = {name: array.shape for name, array in vars(self).items()}
        found = {name: take_back(arrays, f"state/{name}", shape, np.float64) for name, shape in shapes.items()}
        return Coefficients(**{name: np.array(array) for name, array in found.items()})


def row_sums(design_RC: Any, linear_C: Numbers, factors_DC: Numbers) -> tuple[Numbers, Numbers]:
    """``(R,)`` b and ``(R, D)`` q of rows of sparse features."""
    rows, width = design_RC.shape[0], len(factors_DC)
    biases_R, vectors_RD = np.empty(rows), np.empty((rows, width))
    offsets = design_RC.indptr.astype(np.int64)
    columns, values = design_RC.indices.astype(np.int32), design_RC.data.astype(np.float32)
    fixed = np.ascontiguousarray(linear_C), np.ascontiguousarray(factors_DC.T)

    def work(first: int, stop: int) -> None:
        _sum_rows(first, stop, offsets, columns, values, *fixed, biases_R, vectors_RD)

    over_rows(work, offsets)
    return biases_R, vectors_RD


def scores_of(offset: float, places_BT: Codes, biases_S: Numbers, vectors_SD: Numbers) -> Scores:
    """``(T,)`` what each rating is expected to be, by the rows that it reads."""
    scores_T = np.empty(places_BT.shape[1], np.float32)
    rows = biases_S.astype(np.float32), vectors_SD.astype(np.float32)

    def work(first: int, stop: int) -> None:
        _score(first, stop, places_BT, offset, *rows, scores_T)

    over_rows(work, np.arange(len(scores_T) + 1))
    return scores_T


@summing_kernel(
    int64,
    int64,
    read(int64),
    read(int32),
    read(float32),
    read(float64),
    read(float64, 2),
    written(float64),
    written(float64, 2),
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
        own = vectors[row]
        own[:] = 0.0
        bias = 0.0
        squares = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            column, x = columns[at], values[at]
            bias += x * linear[column]
            for d in range(width):
                part = x * factors[column, d]
                own[d] += part
                squares += part * part
        total = 0.0
        for d in range(width):
            total += own[d] * own[d]
        biases[row] = bias + 0.5 * (total - squares)


@summing_kernel(int64, int64, read(int32, 2), float64, read(float32), read(float32, 2), written(float32))
def _score(
    first: int,
    stop: int,
    places: Codes,
    offset: float,
    biases: Scores,
    vectors: Scores,
    out: Scores,
) -> None:
    blocks, width = places.shape[0], vectors.shape[1]
    for t in range(first, stop):
        total = offset
        for b in range(blocks):
            one = places[b, t]
            total += biases[one]
            for c in range(b):
                other = places[c, t]
                product = np.float32(0.0)
                for d in range(width):
                    product += vectors[one, d] * vectors[other, d]
                total += product
        out[t] = total
