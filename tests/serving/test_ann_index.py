"""The exact index matches ``recommend``; the approximate one nearly does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segue.core.types import Events, Mask, Recommendations, Scores
from segue.serving.artifacts import ann_index as module
from segue.serving.artifacts.ann_index import ApproximateIndex, ExactIndex, measure_recall

SMALL = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])


def _sorted(scores_NI: Scores, k: int, rows: list[list[int]], allowed: Mask) -> list[list[int]]:
    """Rank by sorting in plain Python."""
    found = []
    for row, scores in zip(rows, scores_NI.tolist(), strict=True):
        left = [item for item in range(len(scores)) if allowed[item] and item not in row]
        found.append(sorted(left, key=lambda item: (-scores[item], item))[:k])
    return found


def _lists(found: Recommendations) -> list[list[int]]:
    return [items[:length].tolist() for items, length in zip(found.items, found.lengths, strict=True)]


@given(st.data())
def test_exact_index_matches_sorting(data: st.DataObject) -> None:
    n, n_items, width, k = (data.draw(st.integers(low, high)) for low, high in ((0, 4), (1, 9), (1, 3), (1, 11)))
    vectors = data.draw(arrays(np.float32, (n_items, width), elements=SMALL))
    bias = data.draw(arrays(np.float32, n_items, elements=SMALL))
    queries = data.draw(arrays(np.float32, (n, width), elements=SMALL))
    rows = data.draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=5), min_size=n, max_size=n))
    allowed = data.draw(arrays(np.bool_, n_items))
    index = ExactIndex(vectors, bias)
    scores = queries @ vectors.T + bias
    found = index.search(queries, k, Events.of(rows), allowed)
    assert _lists(found) == _sorted(scores, k, rows, allowed)
    everything = index.search(queries, k)
    assert _lists(everything) == _sorted(scores, k, [[]] * n, np.ones(n_items, np.bool_))


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"bias of shape \(2,\) for vectors of shape \(3, 4\)"):
        ExactIndex(np.zeros((3, 4), np.float32), np.zeros(2, np.float32))


@pytest.fixture(scope="module")
def exact() -> ExactIndex:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5_000, 16)).astype(np.float32) * rng.lognormal(size=(5_000, 1)).astype(np.float32)
    return ExactIndex(vectors, rng.normal(size=5_000).astype(np.float32))


@pytest.fixture(scope="module")
def graph(exact: ExactIndex) -> ApproximateIndex:
    pytest.importorskip("usearch", reason="the extra 'ann' is not installed")
    return ApproximateIndex.build(exact, threads=1)


QUERIES = np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)


def test_graph_has_high_recall(exact: ExactIndex, graph: ApproximateIndex) -> None:
    assert measure_recall(graph, exact, QUERIES, 10) > 0.95
    assert measure_recall(exact, exact, QUERIES, 10) == 1.0


def test_graph_results_are_ranked_exactly(exact: ExactIndex, graph: ApproximateIndex) -> None:
    found = graph.search(QUERIES, 10)
    scores = QUERIES @ exact.vectors.T + exact.bias
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, found.items, axis=1), 1e-5, 1e-5)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert (found.lengths == 10).all()


def test_graph_excludes_items(exact: ExactIndex, graph: ApproximateIndex) -> None:
    best = exact.search(QUERIES, 30).items
    rows = Events.of(best.tolist())
    allowed = np.arange(5_000) % 3 != 0
    for permitted in (None, allowed):
        found = graph.search(QUERIES, 10, rows, permitted)
        assert (found.lengths == 10).all()
        assert not (found.items[:, :, None] == best[:, None, :]).any()
        assert permitted is None or permitted[found.items].all()


def test_results_do_not_depend_on_the_batch(exact: ExactIndex, graph: ApproximateIndex) -> None:
    rng = np.random.default_rng(2)
    rows = Events.of([rng.integers(5_000, size=rng.integers(300)).tolist() for _ in QUERIES])
    together = graph.search(QUERIES, 10, rows)
    for row in range(len(QUERIES)):
        alone = graph.search(QUERIES[row : row + 1], 10, rows.take(np.array([row])))
        assert alone.items[0].tolist() == together.items[row].tolist()


def test_few_allowed_items_are_found_exactly(exact: ExactIndex, graph: ApproximateIndex) -> None:
    allowed = np.zeros(5_000, np.bool_)
    allowed[[7, 70, 700]] = True
    found, expected = (one.search(QUERIES, 5, None, allowed) for one in (graph, exact))
    np.testing.assert_array_equal(found.items, expected.items)
    assert (found.lengths == 3).all()
    nothing = graph.search(QUERIES, 5, None, np.zeros(5_000, np.bool_))
    assert not nothing.lengths.any()


def test_short_lists_are_filled(exact: ExactIndex, graph: ApproximateIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERSAMPLING", 1)
    best = exact.search(QUERIES, 100).items
    allowed = np.ones(5_000, np.bool_)
    allowed[best[0]] = False  # nothing that the graph finds for the first query is allowed
    found, expected = (one.search(QUERIES, 20, None, allowed) for one in (graph, exact))
    assert (found.lengths == 20).all()
    np.testing.assert_array_equal(found.items[0], expected.items[0])


def test_graph_round_trip(exact: ExactIndex, graph: ApproximateIndex, tmp_path: Path) -> None:
    graph.write(tmp_path / "items.usearch")
    again = ApproximateIndex.read(exact, tmp_path / "items.usearch")
    np.testing.assert_array_equal(again.search(QUERIES, 10).items, graph.search(QUERIES, 10).items)
    with pytest.raises(ValueError, match="a graph of 5000 items of width 17, expected 3 of width 17"):
        ApproximateIndex.read(ExactIndex(exact.vectors[:3]), tmp_path / "items.usearch")


def test_missing_usearch_names_the_extra(exact: ExactIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"usearch is not installed: pip install 'segue\[ann\]'"):
        ApproximateIndex.build(exact)


def test_padded_results_contain_no_duplicates(exact: ExactIndex) -> None:
    class ShortGraph:
        """A graph that finds three items; usearch pads the rest with 0."""

        def search(self, queries: Scores, count: int, threads: int) -> Any:
            keys = np.zeros((len(queries), count), np.uint64)
            keys[:, :3] = 0, 5, 7
            return SimpleNamespace(keys=keys)

    queries = exact.vectors[:2].copy()
    found = ApproximateIndex(exact, ShortGraph()).search(queries, 4)
    assert all(len(set(row)) == 4 for row in _lists(found))
    assert _lists(found) == _lists(exact.search(queries, 4))  # too few: exact search


def test_malformed_graphs_are_rejected_before_native_code_reads_them(tmp_path: Path) -> None:
    """USearch follows the links of a graph unchecked, so that a wrong one ends the process."""
    vectors = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    exact, path = ExactIndex(vectors), tmp_path / "items.usearch"
    ApproximateIndex.build(exact, threads=1).write(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    variants = [whole[: int(rng.integers(len(whole)))] for _ in range(20)] + [b"", whole + b"x", bytes(len(whole))]
    graph_start = 8 + 4 * 300 * 9
    for begin, end in ((0, 8), (8, graph_start), (graph_start, graph_start + 104), (graph_start + 104, len(whole))):
        for _ in range(10):
            content = bytearray(whole)
            for position in rng.integers(begin, end, 20):
                content[position] ^= int(rng.integers(1, 256))
            variants.append(bytes(content))
    n_rejected = 0
    for content in variants:
        path.unlink()
        path.write_bytes(content)
        try:
            index = ApproximateIndex.read(exact, path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            n_rejected += 1
        else:
            index.search(vectors[:5], 3)
    assert n_rejected > 0.9 * len(variants)
