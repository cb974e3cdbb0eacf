"""Maximum inner product search over item vectors: exact or approximate.

The approximate index is an HNSW graph (Malkov and Yashunin 2016, arXiv:1603.09320) over raw inner products (Morozov and
Babenko 2018, "Non-metric similarity graphs for maximum inner product search", NeurIPS). Candidates from the graph are
scored again exactly, so only the candidate set is approximate, not the ranking.

Shapes: N queries, I items, D width, k list length, W candidates from the graph.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segue.core.recommend import recommend, top_k
from segue.core.types import Codes, DataSchema, Events, Mask, Queries, Recommendations, Scores
from segue.serving.artifacts.ann_graph_check import check_graph_file

__all__ = ["ANN_THRESHOLD", "ApproximateIndex", "ExactIndex", "Index", "measure_recall"]

ANN_THRESHOLD = 2_000_000
"""Number of items above which the graph is faster: reading that many vectors of width 64 takes about 30 ms."""

EXTRA = "pip install 'segue[ann]'"

OVERSAMPLING = 2
"""Candidates taken from the graph per requested item, beside those that may be excluded."""

FETCH_STEP = 64
"""Candidate counts are rounded up to a multiple of this, so that queries with similar counts are searched together."""

EXACT_SCAN_SHARE = 0.1
"""Share of the catalog above which an exact scan is faster."""

CONNECTIVITY, EXPANSION_ADD, EXPANSION_SEARCH = 16, 128, 128
"""HNSW links per item, and beam widths of construction and search: larger is more accurate and slower."""


class Index(Protocol):
    """Finds the best items for query vectors."""

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """Return the items with the greatest ``queries @ vectors.T + bias``.

        Args:
            k: number of items per query, best first; ties in catalog order.
            exclude: one row per query, items to leave out.
            allowed: ``(I,)`` items that may be returned at all.
        """
        ...


class ExactIndex:
    """Scans all items, in one pass over their vectors.

    Args:
        vectors_ID: one row per item.
        bias_I: added to the score of each item; ``None``: nothing.
    """

    def __init__(self, vectors_ID: NDArray[np.float32], bias_I: NDArray[np.float32] | None = None) -> None:
        self.vectors = np.ascontiguousarray(vectors_ID, np.float32)
        self.bias = np.zeros(len(vectors_ID), np.float32) if bias_I is None else np.asarray(bias_I, np.float32)
        if self.bias.shape != self.vectors.shape[:1]:
            raise ValueError(f"index: bias of shape {self.bias.shape} for vectors of shape {self.vectors.shape}")

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """Search exactly; see :meth:`Index.search`.

        The result is that of :func:`segue.core.recommend.recommend`.
        """
        history = Events.of([[]] * len(queries_ND)) if exclude is None else exclude
        queries = Queries.of_users(np.arange(len(queries_ND), dtype=np.int32), history)
        return recommend(_PrecomputedModel(self, queries_ND), queries, k, allowed=allowed)


class ApproximateIndex:
    """Searches an HNSW graph; scans exactly where the graph is unsuitable.

    Args:
        exact: the same items.
        graph: made by :meth:`build`.
        changed: items that are not in the graph, or have other vectors there: they are candidates of every query.
    """

    def __init__(self, exact: ExactIndex, graph: Any, changed: Codes | None = None) -> None:
        self.exact, self._graph = exact, graph
        self._changed = np.zeros(0, np.int64) if changed is None else np.asarray(changed, np.int64)

    def with_items(self, exact: ExactIndex, changed: Codes) -> ApproximateIndex:
        """Return an index of a catalog in which items were added or replaced.

        The graph is shared.

        Args:
            exact: all items.
            changed: those that the graph does not have, and those whose vectors have changed.
        """
        return ApproximateIndex(exact, self._graph, changed)

    @classmethod
    def build(cls, exact: ExactIndex, threads: int = 0) -> Self:
        """Build the graph, which takes some minutes for a million items.

        Args:
            threads: 0: one per core. With several threads the graph is not reproducible.

        Raises:
            ValueError: usearch is not installed.
        """
        graph = _import_usearch().Index(
            ndim=exact.vectors.shape[1] + 1,
            metric="ip",
            dtype="f32",
            connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
            expansion_search=EXPANSION_SEARCH,
        )
        graph.add(np.arange(len(exact.vectors)), np.column_stack([exact.vectors, exact.bias]), threads=threads)
        return cls(exact, graph)

    @classmethod
    def read(cls, exact: ExactIndex, path: Path) -> Self:
        """Open the graph that :meth:`write` wrote, as a memory-mapped file.

        Raises:
            ValueError: usearch is not installed, or the graph is malformed or belongs to other items.
        """
        usearch_index = _import_usearch()
        check_graph_file(path, exact.vectors, exact.bias, CONNECTIVITY)
        graph = usearch_index.Index.restore(str(path), view=True)
        expected = len(exact.vectors), exact.vectors.shape[1] + 1
        if graph is None or (len(graph), graph.ndim) != expected:
            description = "no graph" if graph is None else f"a graph of {len(graph)} items of width {graph.ndim}"
            raise ValueError(f"{path}: {description}, expected {expected[0]} of width {expected[1]}")
        graph.expansion_search = EXPANSION_SEARCH
        return cls(exact, graph)

    def write(self, path: Path) -> None:
        """Write the graph to a file."""
        self._graph.save(str(path))

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """Find approximately the best items, ranked exactly; see :meth:`Index.search`.

        The result for a query does not depend on the other queries.
        """
        n, n_items = len(queries_ND), len(self.exact.vectors)
        allowed_share = 1.0 if allowed is None else float(allowed.mean())
        fetch_N = np.full(n, math.ceil(OVERSAMPLING * k / max(allowed_share, 1.0 / n_items)))
        if exclude is not None:
            fetch_N += exclude.lengths
        step_counts, step_N = np.unique(-(-fetch_N // FETCH_STEP), return_inverse=True)
        row_groups = [np.flatnonzero(step_N == number) for number in range(len(step_counts))]
        results = [
            self._search_graph(
                queries_ND[rows], k, None if exclude is None else exclude.take(rows), allowed, FETCH_STEP * step
            )
            for rows, step in zip(row_groups, step_counts.tolist(), strict=True)
        ]
        joined = Recommendations.concat(results, k)
        order = np.argsort(np.concatenate([*row_groups, np.zeros(0, np.int64)]), kind="stable")
        return Recommendations(joined.items[order], joined.scores[order], joined.lengths[order])

    def _search_graph(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None, allowed: Mask | None, n_fetch: int
    ) -> Recommendations:
        """Search the graph for queries that need ``wanted`` candidates each."""
        n = len(queries_ND)
        if n_fetch + len(self._changed) > EXACT_SCAN_SHARE * len(self.exact.vectors):
            return self.exact.search(queries_ND, k, exclude, allowed)
        extended_ND = np.column_stack([queries_ND, np.ones(n, np.float32)])
        matches = self._graph.search(extended_ND, n_fetch, threads=1)
        found_NW = np.asarray(matches.keys).reshape(n, -1).astype(np.int64)
        changed_NM = np.broadcast_to(self._changed, (n, len(self._changed)))
        items_NW = np.sort(np.concatenate([found_NW, changed_NM], axis=1), axis=1)
        scores_NW = self._rescore(queries_ND, items_NW, exclude, allowed)
        top = top_k(scores_NW, min(k, items_NW.shape[1]))
        best = Recommendations(
            np.take_along_axis(items_NW, top.items.astype(np.int64), axis=1).astype(np.int32),
            top.scores,
            top.lengths,
        )
        return self._fill_short_lists(best, queries_ND, k, exclude, allowed)

    def _rescore(
        self, queries_ND: NDArray[np.float32], items_NW: NDArray[np.int64], exclude: Events | None, allowed: Mask | None
    ) -> Scores:
        vectors_NWD = self.exact.vectors[items_NW]
        scores_NW: Scores = np.matmul(vectors_NWD, queries_ND[:, :, None])[:, :, 0] + self.exact.bias[items_NW]
        if allowed is not None:
            scores_NW[~allowed[items_NW]] = -np.inf
        scores_NW[:, 1:][items_NW[:, 1:] == items_NW[:, :-1]] = -np.inf  # usearch pads short results with item 0
        if exclude is not None:
            n_items = len(self.exact.vectors)
            rows_N1 = np.arange(len(items_NW))[:, None] * n_items
            scores_NW[np.isin(rows_N1 + items_NW, exclude.rows * n_items + exclude.items)] = -np.inf
        return scores_NW

    def _fill_short_lists(
        self,
        lists: Recommendations,
        queries_ND: NDArray[np.float32],
        k: int,
        exclude: Events | None,
        allowed: Mask | None,
    ) -> Recommendations:
        """Replace lists that are too short with exact ones."""
        short_rows = np.flatnonzero(lists.lengths < k)
        if not len(short_rows):
            return lists
        exact = self.exact.search(
            queries_ND[short_rows], k, None if exclude is None else exclude.take(short_rows), allowed
        )
        items, scores = np.zeros((len(lists), k), np.int32), np.zeros((len(lists), k), np.float32)
        items[:, : lists.items.shape[1]], scores[:, : lists.items.shape[1]] = lists.items, lists.scores
        lengths = lists.lengths.copy()
        items[short_rows], scores[short_rows], lengths[short_rows] = exact.items, exact.scores, exact.lengths
        return Recommendations(items, scores, lengths)


def measure_recall(index: Index, exact: ExactIndex, queries_ND: NDArray[np.float32], k: int) -> float:
    """Return the mean share of the exact top ``k`` that ``index`` finds."""
    found, expected = index.search(queries_ND, k), exact.search(queries_ND, k)
    recalls = [
        len(np.intersect1d(found.items[n, : found.lengths[n]], expected.items[n, : expected.lengths[n]]))
        / max(1, length)
        for n, length in enumerate(expected.lengths.tolist())
    ]
    return float(np.mean(recalls)) if recalls else 1.0


class _PrecomputedModel:
    """A factored model with precomputed query vectors; the user of a query is its row."""

    scale = "score"

    def __init__(self, index: ExactIndex, answers_ND: NDArray[np.float32]) -> None:
        self.vectors, self.bias, self._queries_ND = index.vectors, index.bias, np.asarray(answers_ND, np.float32)
        self.schema = DataSchema(len(answers_ND), len(index.vectors))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        return self._queries_ND[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        raise AssertionError("factored: callers use encode and vectors")


def _import_usearch() -> Any:
    if find_spec("usearch") is None:
        raise ValueError(f"index: usearch is not installed: {EXTRA}")
    import usearch.index

    return usearch.index
