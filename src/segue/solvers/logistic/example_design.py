"""Lay out labeled examples as a sparse design matrix.

It has a column of ones, one per code of a field of categories, one per code of tags or of a sequence (1 for each value
that an example has), one per number and per dimension of a vector, and an indicator of missing ones.

Shapes: T examples, P columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from segue.core.examples.fields import Examples, Field, fields_of_kind

__all__ = ["count_design_columns", "design_of_examples"]


def count_design_columns(fields: Sequence[Field]) -> int:
    """Return the number of columns of the design matrix."""
    coded = [one.size for one in fields_of_kind(fields, "category", "tags", "sequence")]
    dense = [one.size + 1 for one in fields_of_kind(fields, "number", "vector")]
    return 1 + sum(coded) + sum(dense)


def design_of_examples(examples: Examples) -> csr_array[Any]:
    """Return the design matrix, ``(T, P)``; its first column is the intercept."""
    fields, count = examples.fields, len(examples)
    blocks: list[Any] = [csr_array(np.ones((count, 1)))]
    for index, one in enumerate(fields_of_kind(fields, "category")):
        blocks.append(_one_hot(np.arange(count + 1), examples.codes[:, index], one.size))
    for one in fields_of_kind(fields, "tags", "sequence"):
        lists = examples.lists[one.name]
        blocks.append(_one_hot(lists.offsets, lists.items, one.size))
    blocks += [_with_indicator(column_T[:, None]) for column_T in examples.numbers.T]
    blocks += [_with_indicator(examples.vectors[one.name]) for one in fields_of_kind(fields, "vector")]
    return csr_array(hstack(blocks, format="csr", dtype=np.float64))


def _one_hot(offsets: NDArray[Any], codes: NDArray[Any], size: int) -> csr_array[Any]:
    """Return ones at the codes of each row."""
    matrix = csr_array((np.ones(len(codes)), np.array(codes), np.array(offsets)), shape=(len(offsets) - 1, size))
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def _with_indicator(x_TW: NDArray[np.float32]) -> csr_array[Any]:
    """Return numbers, 0 where missing, and a column that marks missing rows."""
    is_missing_T1 = np.isnan(x_TW[:, :1])
    return csr_array(np.concatenate([np.nan_to_num(x_TW), is_missing_T1], axis=1))
