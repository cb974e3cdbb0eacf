"""Compare recommendations from scores with sorting in plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segue.core import recommend as module
from segue.core.recommend import recommend, top_k
from segue.core.types import Codes, DataSchema, Events, Mask, Queries, Scores

FEW = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


class FixedScores:
    """A recommender with given scores."""

    def __init__(self, scores: Scores, scale: str = "score") -> None:
        self.scores, self.scale, self.schema = scores, scale, DataSchema(1, scores.shape[1])

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return self.scores[queries.users]


def sort(row: list[float], k: int) -> list[int]:
    """Sort columns by descending score, ties in catalog order, without minus infinity."""
    return [j for j in sorted(range(len(row)), key=lambda j: (-row[j], j)) if row[j] > -np.inf][:k]


@given(arrays(np.float32, st.tuples(st.integers(0, 4), st.integers(1, 9)), elements=FEW), st.integers(1, 12))
def test_top_k_equals_sorting(scores: Scores, k: int) -> None:
    best = top_k(scores, k)
    assert best.items.shape == best.scores.shape == (len(scores), k)
    for row, items, values, length in zip(scores.tolist(), best.items, best.scores, best.lengths, strict=True):
        expected = sort(row, k)
        assert items[:length].tolist() == expected
        assert values[:length].tolist() == [row[j] for j in expected]
        assert not items[length:].any()
        assert not values[length:].any()


@given(st.data())
def test_recommend_excludes_seen_and_disallowed_items(data: st.DataObject) -> None:
    n, n_items, k = 5, 8, data.draw(st.integers(1, 10))
    scores = data.draw(arrays(np.float32, (n, n_items), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])))
    rows = data.draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=9), min_size=n, max_size=n))
    allowed: Mask = data.draw(arrays(np.bool_, n_items))
    queries = Queries.of_users(np.arange(n, dtype=np.int32), Events.of(rows))
    before = scores.copy()
    actual = recommend(FixedScores(scores), queries, k, allowed=allowed)
    with_seen = recommend(FixedScores(scores), queries, k, exclude_seen=False)
    for r, row in enumerate(scores.tolist()):
        open_to = [v if allowed[j] and j not in rows[r] else -np.inf for j, v in enumerate(row)]
        assert actual.items[r, : actual.lengths[r]].tolist() == sort(open_to, k)
        assert with_seen.items[r, : with_seen.lengths[r]].tolist() == sort(row, k)
    np.testing.assert_array_equal(scores, before)


def test_results_do_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(11, 6)).astype(np.float32)
    queries = Queries.of_users(np.arange(11, dtype=np.int32), Events.of([[r % 6] for r in range(11)]))
    in_one_block = recommend(FixedScores(scores, "logit"), queries, 3)
    monkeypatch.setattr(module, "BLOCK_SCORES", 25)
    monkeypatch.setattr(module, "CACHE_SCORES", 13)
    in_blocks = recommend(FixedScores(scores, "logit"), queries, 3)
    for name in ("items", "scores", "lengths", "probabilities"):
        np.testing.assert_array_equal(getattr(in_one_block, name), getattr(in_blocks, name))


class QueryVectors:
    """A factored recommender."""

    def __init__(self, query_vectors: Scores, vectors: Scores) -> None:
        self.query_vectors, self.vectors, self.bias = query_vectors, vectors, vectors[:, 0]
        self.schema = DataSchema(len(query_vectors), len(vectors))

    def encode(self, queries: Queries) -> Scores:
        return self.query_vectors[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        return self.encode(queries) @ self.vectors.T + self.bias


@pytest.mark.parametrize("n", [1, 2, module.SMALL_BATCH, module.SMALL_BATCH + 1])
def test_blocked_product_equals_the_product(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ITEMS", 10)
    rng = np.random.default_rng(n)
    model = QueryVectors(*(rng.normal(size=(size, 5)).astype(np.float32) for size in (n, 37)))
    queries = Queries.of_users(np.arange(n, dtype=np.int32), Events.of([[]] * n))
    actual = np.concatenate([scores.copy() for _, scores in module.score_blocks(model, queries)])
    np.testing.assert_allclose(actual, model.score(queries), 1e-5, 1e-5)


def test_probabilities_are_a_softmax_over_unseen_items() -> None:
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(4, 9)) * 30 + 200).astype(np.float32)
    queries = Queries.of_users(np.arange(4, dtype=np.int32), Events.of([[0], [], [1, 2], list(range(9))]))
    unfiltered = recommend(FixedScores(scores, "logit"), queries, 9, exclude_seen=False)
    assert unfiltered.probabilities is not None
    np.testing.assert_allclose(unfiltered.probabilities.sum(axis=1), 1.0, rtol=1e-5)
    allowed = np.arange(9) != 8  # disallowed items remain in the softmax
    filtered = recommend(FixedScores(scores, "logit"), queries, 9, allowed=allowed)
    assert filtered.probabilities is not None
    assert filtered.lengths.tolist() == [7, 8, 6, 0]
    odds = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    odds[queries.history.rows, queries.history.items] = 0.0
    expected = odds / np.maximum(odds.sum(axis=1, keepdims=True), 1e-300)
    for r in range(4):
        n = filtered.lengths[r]
        np.testing.assert_allclose(
            filtered.probabilities[r, :n], expected[r, filtered.items[r, :n]], rtol=1e-4, atol=1e-9
        )
        assert not filtered.probabilities[r, n:].any()
    assert recommend(FixedScores(scores), queries, 2).probabilities is None


def test_fewer_than_k_candidates() -> None:
    queries = Queries.of_users(np.zeros(2, np.int32), Events.of([[0, 1], [0, 1, 2]]))
    actual = recommend(FixedScores(np.ones((1, 3), np.float32), "logit"), queries, 5)
    assert actual.lengths.tolist() == [1, 0]
    assert actual.items.tolist() == [[2, 0, 0, 0, 0], [0] * 5]


def test_no_queries_and_invalid_k() -> None:
    no_queries = Queries.anonymous(Events.of([]))
    assert recommend(FixedScores(np.ones((1, 3), np.float32)), no_queries, 4).items.shape == (0, 4)
    with pytest.raises(ValueError, match="k: got 0, expected at least 1"):
        recommend(FixedScores(np.ones((1, 3), np.float32)), no_queries, 0)
