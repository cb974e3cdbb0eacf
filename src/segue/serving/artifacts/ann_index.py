"""The best items for vectors that are there already: by looking at all of them, or, of very many, by a graph.

The graph is HNSW (Malkov and Yashunin 2016, arXiv:1603.09320) over products as they are (Morozov and Babenko 2018,
"Non-metric similarity graphs for maximum inner product search", NeurIPS). What it finds is scored again exactly, so
that only what is found may differ from the exact answer, not how it is ranked.

Shapes: N queries, I items, D width, k places, W items that a graph found.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segue.core.recommend import recommend, top_k
from segue.core.types import Codes, Domain, Events, Mask, Queries, Recommendations, Scores

__all__ = ["LARGE", "ApproximateIndex", "ExactIndex", "Index", "recall"]

LARGE = 2_000_000
"""Items above which a graph pays: to read the vectors of so many takes some 30 ms, at a width of 64."""

EXTRA = "pip install 'segue[ann]'"

MORE = 2
"""Times as many items as are wanted that are taken from the graph, beside those that may be excluded."""

STEP = 64
"""Items that are taken from the graph are a multiple of this, so that queries with histories of like length go
together."""

SCAN = 0.1
"""Share of the catalogue from which on it is faster to look at all of it."""

CONNECTIVITY, BUILDING, SEARCHING = 16, 128, 128
"""Links of an item, and items in view while the graph is built and searched: more is better and slower."""


class Index(Protocol):
    """Finds the best items for vectors of queries."""

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """The ``k`` greatest ``queries @ vectors.T + bias``, best first; equal scores in the order of the catalogue.

        Args:
            exclude: one row per query, items that it is not to get.
            allowed: ``(I,)`` items that may be found at all.
        """
        ...


class ExactIndex:
    """All items are looked at, in one pass over their vectors.

    Args:
        vectors_ID: one row per item.
        bias_I: what is added for each item; none: nothing.
    """

    def __init__(self, vectors_ID: NDArray[np.float32], bias_I: NDArray[np.float32] | None = None) -> None:
        self.vectors = np.ascontiguousarray(vectors_ID, np.float32)
        self.bias = np.zeros(len(vectors_ID), np.float32) if bias_I is None else np.asarray(bias_I, np.float32)
        if self.bias.shape != self.vectors.shape[:1]:
            raise ValueError(f"index: bias {self.bias.shape} for vectors {self.vectors.shape}")

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """See :meth:`Index.search`: the answer of :func:`segue.core.recommend.recommend`."""
        history = Events.of([[]] * len(queries_ND)) if exclude is None else exclude
        queries = Queries.of_users(np.arange(len(queries_ND), dtype=np.int32), history)
        return recommend(_Answered(self, queries_ND), queries, k, allowed=allowed)


class ApproximateIndex:
    """A graph leads to nearly the best items; what cannot be answered well by it is answered exactly.

    Args:
        exact: the same items.
        graph: made by :meth:`built`.
    """

    def __init__(self, exact: ExactIndex, graph: Any) -> None:
        self.exact, self._graph = exact, graph

    @classmethod
    def built(cls, exact: ExactIndex, threads: int = 0) -> Self:
        """Build the graph, which takes some minutes for a million items.

        Args:
            threads: 0: one per core. With several the graph is another one each time.

        Raises:
            ValueError: usearch is not installed.
        """
        graph = _usearch().Index(
            ndim=exact.vectors.shape[1] + 1,
            metric="ip",
            dtype="f32",
            connectivity=CONNECTIVITY,
            expansion_add=BUILDING,
            expansion_search=SEARCHING,
        )
        graph.add(np.arange(len(exact.vectors)), np.column_stack([exact.vectors, exact.bias]), threads=threads)
        return cls(exact, graph)

    @classmethod
    def read(cls, exact: ExactIndex, path: Path) -> Self:
        """What :meth:`write` wrote, left on disk until it is looked at.

        Raises:
            ValueError: usearch is not installed, or the graph is of other items.
        """
        graph = _usearch().Index.restore(str(path), view=True)
        expected = len(exact.vectors), exact.vectors.shape[1] + 1
        if graph is None or (len(graph), graph.ndim) != expected:
            found = "no graph" if graph is None else f"a graph of {len(graph)} items of width {graph.ndim}"
            raise ValueError(f"{path}: {found}, expected {expected[0]} of width {expected[1]}")
        graph.expansion_search = SEARCHING
        return cls(exact, graph)

    def write(self, path: Path) -> None:
        """Write the graph to a file."""
        self._graph.save(str(path))

    def search(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None = None, allowed: Mask | None = None
    ) -> Recommendations:
        """See :meth:`Index.search`; nearly the best, ranked as they are exactly. What is found for a query does not
        depend on those that are asked with it."""
        n, n_items = len(queries_ND), len(self.exact.vectors)
        share = 1.0 if allowed is None else float(allowed.mean())
        wanted_N = np.full(n, math.ceil(MORE * k / max(share, 1.0 / n_items)))
        if exclude is not None:
            wanted_N += exclude.lengths
        steps, step_N = np.unique(-(-wanted_N // STEP), return_inverse=True)
        parts = [np.flatnonzero(step_N == number) for number in range(len(steps))]
        found = [
            self._found(queries_ND[rows], k, None if exclude is None else exclude.take(rows), allowed, STEP * step)
            for rows, step in zip(parts, steps.tolist(), strict=True)
        ]
        joined = Recommendations.joined(found, k)
        order = np.argsort(np.concatenate([*parts, np.zeros(0, np.int64)]), kind="stable")
        return Recommendations(joined.items[order], joined.scores[order], joined.lengths[order])

    def _found(
        self, queries_ND: NDArray[np.float32], k: int, exclude: Events | None, allowed: Mask | None, wanted: int
    ) -> Recommendations:
        """The answers to queries of each of which ``wanted`` items are taken from the graph."""
        n = len(queries_ND)
        if wanted > SCAN * len(self.exact.vectors):
            return self.exact.search(queries_ND, k, exclude, allowed)
        asked = np.column_stack([queries_ND, np.ones(n, np.float32)])
        matches = self._graph.search(asked, wanted, threads=1)
        items_NW = np.sort(np.asarray(matches.keys).reshape(n, -1).astype(np.int64), axis=1)
        scores_NW = self._scored(queries_ND, items_NW, exclude, allowed)
        found = top_k(scores_NW, min(k, items_NW.shape[1]))
        best = Recommendations(
            np.take_along_axis(items_NW, found.items.astype(np.int64), axis=1).astype(np.int32),
            found.scores,
            found.lengths,
        )
        return self._completed(best, queries_ND, k, exclude, allowed)

    def _scored(
        self, queries_ND: NDArray[np.float32], items_NW: NDArray[np.int64], exclude: Events | None, allowed: Mask | None
    ) -> Scores:
        vectors_NWD = self.exact.vectors[items_NW]
        scores_NW: Scores = np.matmul(vectors_NWD, queries_ND[:, :, None])[:, :, 0] + self.exact.bias[items_NW]
        if allowed is not None:
            scores_NW[~allowed[items_NW]] = -np.inf
        scores_NW[:, 1:][items_NW[:, 1:] == items_NW[:, :-1]] = -np.inf  # a graph that finds fewer fills up with 0
        if exclude is not None:
            n_items = len(self.exact.vectors)
            rows_N1 = np.arange(len(items_NW))[:, None] * n_items
            scores_NW[np.isin(rows_N1 + items_NW, exclude.rows * n_items + exclude.items)] = -np.inf
        return scores_NW

    def _completed(
        self,
        found: Recommendations,
        queries_ND: NDArray[np.float32],
        k: int,
        exclude: Events | None,
        allowed: Mask | None,
    ) -> Recommendations:
        """Lists that came out too short are taken from all items."""
        short = np.flatnonzero(found.lengths < k)
        if not len(short):
            return found
        rest = self.exact.search(queries_ND[short], k, None if exclude is None else exclude.take(short), allowed)
        items, scores = np.zeros((len(found), k), np.int32), np.zeros((len(found), k), np.float32)
        items[:, : found.items.shape[1]], scores[:, : found.items.shape[1]] = found.items, found.scores
        lengths = found.lengths.copy()
        items[short], scores[short], lengths[short] = rest.items, rest.scores, rest.lengths
        return Recommendations(items, scores, lengths)


def recall(index: Index, exact: ExactIndex, queries_ND: NDArray[np.float32], k: int) -> float:
    """The share of the exact best ``k`` that ``index`` finds, averaged over queries."""
    found, best = index.search(queries_ND, k), exact.search(queries_ND, k)
    shares = [
        len(np.intersect1d(found.items[n, : found.lengths[n]], best.items[n, : best.lengths[n]])) / max(1, length)
        for n, length in enumerate(best.lengths.tolist())
    ]
    return float(np.mean(shares)) if shares else 1.0


class _Answered:
    """A factored model whose answers are there already; the user of a query is its row."""

    scale = "score"

    def __init__(self, index: ExactIndex, answers_ND: NDArray[np.float32]) -> None:
        self.vectors, self.bias, self._answers_ND = index.vectors, index.bias, np.asarray(answers_ND, np.float32)
        self.domain = Domain(len(answers_ND), len(index.vectors))

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        return self._answers_ND[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        raise AssertionError("factored: the product is taken by whoever asks")


def _usearch() -> Any:
    if find_spec("usearch") is None:
        raise ValueError(f"index: usearch is not installed: {EXTRA}")
    import usearch.index

    return usearch.index
