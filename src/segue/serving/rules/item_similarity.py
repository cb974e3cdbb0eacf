"""Item-item similarity for diversification, from model vectors or item features.

Shapes: I items, D width of a factored model, P items of a candidate pool, T feature values of the pool in total, V
distinct values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from segue.core.events import Codes
from segue.serving.catalog.feature_column import ItemValues

__all__ = ["ItemSimilarity", "cosine_similarity", "jaccard_similarity"]

ItemSimilarity: TypeAlias = Callable[[Codes], Callable[[int], NDArray[np.float64]]]
"""For the items of a pool, a function from an item to its similarity ``(P,)`` to each of them; at most 1."""


def cosine_similarity(vectors_ID: NDArray[np.floating[Any]]) -> ItemSimilarity:
    """Cosine of the item vectors; 0 for a zero vector."""

    def unit(items: Any) -> NDArray[np.float64]:
        vectors: NDArray[np.float64] = np.asarray(vectors_ID[items], np.float64)
        lengths = np.sqrt(np.square(vectors).sum(axis=-1, keepdims=True))
        return vectors / np.where(lengths > 0, lengths, 1.0)

    def for_pool(items: Codes) -> Callable[[int], NDArray[np.float64]]:
        units_PD = unit(items)
        rows = {item: row for row, item in enumerate(items.tolist())}

        def similarity_to(item: int) -> NDArray[np.float64]:
            row = rows.get(item)
            similarity: NDArray[np.float64] = units_PD @ (unit(item) if row is None else units_PD[row])
            return similarity

        return similarity_to

    return for_pool


def jaccard_similarity(item_values: ItemValues) -> ItemSimilarity:
    """Jaccard index of the items' feature values; 0 if both have none."""

    def for_pool(items: Codes) -> Callable[[int], NDArray[np.float64]]:
        rows_T, values_T = item_values.gather(items)
        sizes_P = np.bincount(rows_T, minlength=len(items))
        is_shared_V = np.zeros(len(item_values.values), np.bool_)

        def similarity_to(item: int) -> NDArray[np.float64]:
            values = item_values.codes_of(item)
            is_shared_V[values] = True
            n_shared_P = np.bincount(rows_T[is_shared_V[values_T]], minlength=len(items))
            is_shared_V[values] = False
            n_union_P = sizes_P + len(values) - n_shared_P
            similarity: NDArray[np.float64] = n_shared_P / np.maximum(n_union_P, 1)
            return similarity

        return similarity_to

    return for_pool
