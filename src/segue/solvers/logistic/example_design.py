"""Lay out labeled examples as a sparse design matrix.

It has a column of ones, one per code of a field of categories, one per code of tags or of a sequence (1 for each value
that an example has), one per number and per dimension of a vector, and an indicator of missing ones.

Shapes: T examples or pairs, P columns, W width of a vector, I items.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from segue.core.examples.candidate_fields import CandidateFields
from segue.core.examples.fields import Examples, Field, FieldKind, fields_of_kind
from segue.core.types import Codes, Scores

__all__ = ["CandidateWeights", "count_design_columns", "design_of_examples", "linear_terms"]


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


def linear_terms(
    examples: Examples, weights_P: NDArray[np.floating[Any]], names: Collection[str]
) -> NDArray[np.float64]:
    """Return the sums of the weights of some fields, ``(T,)``, without intercept.

    It is that of :func:`design_of_examples`, which takes longer to make.
    """
    starts, start = {}, 1
    for kinds, n_more in ((("category",), 0), (("tags", "sequence"), 0), (("number",), 1), (("vector",), 1)):
        for one in fields_of_kind(examples.fields, *kinds):
            starts[one.name] = start
            start += one.size + n_more
    weights_P = np.asarray(weights_P, np.float64)

    def chosen(kind: FieldKind) -> tuple[list[int], NDArray[np.int64]]:
        """Return which fields of a kind are used, and where their weights start."""
        found = [
            (at, starts[one.name]) for at, one in enumerate(fields_of_kind(examples.fields, kind)) if one.name in names
        ]
        return [at for at, _ in found], np.array([start for _, start in found], np.int64)

    columns, starts_F = chosen("category")
    terms_T: NDArray[np.float64] = weights_P[examples.codes[:, columns] + starts_F].sum(1)
    columns, starts_K = chosen("number")
    numbers_TK = examples.numbers[:, columns]
    terms_T += np.nan_to_num(numbers_TK) @ weights_P[starts_K] + np.isnan(numbers_TK) @ weights_P[starts_K + 1]
    for one in fields_of_kind(examples.fields, "tags", "sequence"):
        if one.name in names:
            lists = examples.lists[one.name]
            rows, codes = np.divmod(np.unique(lists.rows.astype(np.int64) * one.size + lists.items), one.size)
            terms_T += np.bincount(rows, weights_P[starts[one.name] + codes], minlength=len(examples))
    for one in fields_of_kind(examples.fields, "vector"):
        if one.name in names:
            x_TW, start = examples.vectors[one.name], starts[one.name]
            terms_T += np.nan_to_num(x_TW) @ weights_P[start : start + one.size]
            terms_T += np.isnan(x_TW[:, 0]) * weights_P[start + one.size]
    return terms_T


class CandidateWeights:
    """Scores candidates by a linear model; terms of items are computed once.

    Args:
        weights_P: of the design matrix.
        items: examples of all items, in their order; other fields than those of items are not read.
        n_numbers: numbers of a candidate, the last fields of numbers, which depend on query and item.
    """

    def __init__(self, weights_P: NDArray[np.float32], items: Examples, n_numbers: int) -> None:
        self.weights_P = weights_P.astype(np.float64)
        self.fields = CandidateFields.of(items.fields, n_numbers)
        self.terms_I = linear_terms(items, self.weights_P, self.fields.items)
        width = sum(one.size + 1 for one in fields_of_kind(items.fields, "vector"))
        stop = len(weights_P) - width
        self.weights_K = self.weights_P[stop - 2 * n_numbers : stop : 2]

    def score(
        self, queries: Examples, rows_T: NDArray[np.int64], items_T: Codes, numbers_TK: Scores | None = None
    ) -> Scores:
        """Return the logits of pairs of queries and items, ``(T,)``.

        Args:
            queries: one example per query, with any item.
            rows_T: query of each pair.
            items_T: item of each pair.
            numbers_TK: numbers of each pair, none of which is missing.
        """
        terms_N = linear_terms(queries, self.weights_P, self.fields.queries) + self.weights_P[0]
        logits_T: NDArray[np.float64] = terms_N[rows_T] + self.terms_I[items_T]
        if numbers_TK is not None:
            logits_T += numbers_TK @ self.weights_K
        return logits_T.astype(np.float32)


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
