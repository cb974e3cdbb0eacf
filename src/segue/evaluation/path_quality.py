"""Measure how well paths in the knowledge graph explain recommendations.

The measures follow Balloccu et al. 2022 (arXiv:2204.11241): paths to recommended items, their relations, and the
popularity of the entities they share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segue.core.knowledge.knowledge import Knowledge
from segue.core.knowledge.paths import PathFinder
from segue.core.types import Queries, Recommendations

__all__ = ["PathQuality", "measure_paths"]


@dataclass(frozen=True)
class PathQuality:
    """How well paths explain the recommended items."""

    share_with_path: float
    """Share of the recommended items with a path from an item of the history."""
    mean_paths: float
    """Mean number of paths per recommended item."""
    relation_diversity: float
    """Mean over the queries of distinct relations / recommended items. The relations are the first ones, at the item of
    the history, of the most specific path of each item."""
    entity_popularity: float
    """Mean degree, as a percentile among all vertices, items included (0 to 1), of the vertices that these paths share;
    lower says more. Direct paths share none. NaN without shared vertices."""
    n_recommendations: int
    """Number of recommended items that were measured."""


def measure_paths(knowledge: Knowledge, queries: Queries, recommendations: Recommendations) -> PathQuality:
    """Measure the paths from the history of each query to its recommended items.

    Raises:
        ValueError: another number of lists than of queries.
    """
    if len(queries) != len(recommendations):
        raise ValueError(f"got {len(recommendations)} lists for {len(queries)} queries, expected one list per query")
    finder = PathFinder(knowledge)
    n_vertices = knowledge.graph.n_vertices
    degrees = np.sort([finder.degree(vertex) for vertex in range(n_vertices)])
    counts: list[int] = []
    popularity: list[float] = []
    diversity: list[float] = []
    offsets, items = queries.history.offsets, queries.history.items
    for row, length in enumerate(recommendations.lengths.tolist()):
        history = items[offsets[row] : offsets[row + 1]].tolist()
        relations = set()
        for item in recommendations.items[row, :length].tolist():
            paths = finder.find(history, item)
            counts.append(len(paths))
            if not paths:
                continue
            _, vertex, first, _ = paths[0]
            relations.add(first)
            if vertex is not None:
                popularity.append(float(np.searchsorted(degrees, finder.degree(vertex), "right")) / n_vertices)
        if length:
            diversity.append(len(relations) / length)
    return PathQuality(
        float(np.mean(np.array(counts) > 0)) if counts else 0.0,
        float(np.mean(counts)) if counts else 0.0,
        float(np.mean(diversity)) if diversity else 0.0,
        float(np.mean(popularity)) if popularity else float("nan"),
        len(counts),
    )
