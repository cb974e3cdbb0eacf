"""The measures of likeness by name, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from segue.core.config import suggest
from segue.core.registry import functions
from segue.core.types import Scores
from segue.similarity import distribution_similarity, row_similarity, sequence_similarity, vector_similarity
from segue.similarity.row_pairs import Pairs

__all__ = [
    "COUNTING",
    "DISTRIBUTIONS",
    "MEASURES",
    "OF_VALUES",
    "ONE_WAY",
    "SEQUENCES",
    "VECTORS",
    "Measure",
    "VectorMeasure",
    "measure_called",
]

Measure: TypeAlias = Callable[[Pairs, float], Scores]
"""``(P,)`` likeness of pairs of rows, and what shrinks it."""
VectorMeasure: TypeAlias = Callable[[Scores, Scores], Scores]
"""``(N, R)`` likeness of vectors ``(N, D)`` and ``(R, D)``."""

DISTRIBUTIONS: Mapping[str, Measure] = functions(distribution_similarity)
SEQUENCES: Mapping[str, Measure] = functions(sequence_similarity)
VECTORS: Mapping[str, VectorMeasure] = functions(vector_similarity)

MEASURES: Mapping[str, Measure] = {**functions(row_similarity), **DISTRIBUTIONS, **SEQUENCES}
"""All measures of rows of sparse tables."""

OF_VALUES = frozenset({"adjusted_cosine", "msd", "pearson", "spearman"})
"""Measures over the columns in common, which tell nothing of events, whose cells are all 1."""
COUNTING = frozenset({"conditional", "dice", "jaccard", "log_likelihood"})
"""Measures that look at which cells are there, not at what they hold."""
ONE_WAY = frozenset({"conditional"})
"""Measures by which a may be like b and b not so much like a."""


def measure_called(name: str, known: Mapping[str, object] | None = None) -> None:
    """Check a name.

    Raises:
        ValueError: there is no such measure; the nearest one is named.
    """
    names = {**MEASURES, **VECTORS} if known is None else known
    if name not in names:
        raise ValueError(f"unknown measure '{name}'{suggest(name, names)}")
