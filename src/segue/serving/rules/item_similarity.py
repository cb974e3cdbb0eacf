"""How alike items are, for lists that are to differ: by a model's vectors, or by what the catalogue tells.

Shapes: I items, D width of a factored model, P items of a pool, T values of a pool in total.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes
from segue.serving.catalog.feature_column import Groups

__all__ = ["Likeness", "cosine", "jaccard"]

Likeness: TypeAlias = Callable[[Codes], Callable[[int], NDArray[np.float64]]]
"""For the items of a pool a function that tells how like each of them ``(P,)`` is to an item; at most 1."""


def cosine(vectors_ID: NDArray[np.floating[Any]]) -> Likeness:
    """The cosine of two items' vectors; 0 where one is nothing but zeros."""

    def unit(items: Any) -> NDArray[np.float64]:
        vectors: NDArray[np.float64] = np.asarray(vectors_ID[items], np.float64)
        lengths = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
        return vectors / np.where(lengths > 0, lengths, 1.0)

    def pooled(items: Codes) -> Callable[[int], NDArray[np.float64]]:
        units_PD = unit(items)
        return lambda item: units_PD @ unit(item)

    return pooled


def jaccard(marks: Groups) -> Likeness:
    """Values that two items share, of those that either has; 0 where neither has any."""

    def pooled(items: Codes) -> Callable[[int], NDArray[np.float64]]:
        rows_T, values_T = marks.of(items)
        sizes_P = np.bincount(rows_T, minlength=len(items))

        def to(item: int) -> NDArray[np.float64]:
            own = marks.of(np.array([item]))[1]
            shared_P = np.bincount(rows_T[np.isin(values_T, own)], minlength=len(items))
            either_P = sizes_P + len(own) - shared_P
            likeness: NDArray[np.float64] = shared_P / np.maximum(either_P, 1)
            return likeness

        return to

    return pooled
