"""Registry of the similarity measures and their requirements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from segue.core.config import suggest
from segue.core.registry import exported_functions
from segue.core.types import Scores
from segue.similarity import distribution_similarity, row_similarity, sequence_similarity, vector_similarity
from segue.similarity.row_pairs import CoOccurrencePairs

__all__ = [
    "ASYMMETRIC_MEASURES",
    "BINARY_MEASURES",
    "DISTRIBUTION_MEASURES",
    "MEASURES",
    "SEQUENCE_MEASURES",
    "VALUE_MEASURES",
    "VECTOR_MEASURES",
    "Measure",
    "VectorMeasure",
    "check_measure",
]

Measure: TypeAlias = Callable[[CoOccurrencePairs, float], Scores]
"""``(P,)`` similarity of pairs of rows, given the amount of shrinkage."""
VectorMeasure: TypeAlias = Callable[[Scores, Scores], Scores]
"""``(N, R)`` similarity of vectors ``(N, D)`` and ``(R, D)``."""

DISTRIBUTION_MEASURES: Mapping[str, Measure] = exported_functions(distribution_similarity)
SEQUENCE_MEASURES: Mapping[str, Measure] = exported_functions(sequence_similarity)
VECTOR_MEASURES: Mapping[str, VectorMeasure] = exported_functions(vector_similarity)

MEASURES: Mapping[str, Measure] = {**exported_functions(row_similarity), **DISTRIBUTION_MEASURES, **SEQUENCE_MEASURES}
"""All measures of rows of sparse matrices."""

VALUE_MEASURES = frozenset({"adjusted_cosine", "msd", "pearson", "spearman"})
"""Measures of values over common columns; they are constant for interactions without values."""
BINARY_MEASURES = frozenset({"conditional", "dice", "jaccard", "log_likelihood"})
"""Measures that depend only on which cells are stored, not on their values."""
ASYMMETRIC_MEASURES = frozenset({"conditional"})
"""Measures by which the similarity of a to b differs from that of b to a."""


def check_measure(name: str, known: Mapping[str, object] | None = None) -> None:
    """Check the name of a measure.

    Raises:
        ValueError: the measure is unknown; the message suggests the nearest name.
    """
    names = {**MEASURES, **VECTOR_MEASURES} if known is None else known
    if name not in names:
        raise ValueError(f"unknown similarity measure '{name}'{suggest(name, names)}")
