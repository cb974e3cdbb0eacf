"""Scores are computed in blocks of bounded size, and items without events are ranked last."""

from __future__ import annotations

import numpy as np
import pytest

from segue.core import recommend as module
from segue.core.model_arrays import NonFiniteScoreError
from segue.core.recommend import log_partition, recommend, score_blocks, top_k
from segue.core.types import Codes, DataSchema, Events, Queries, Scores


class Recorder:
    """A recommender that records how many queries it is asked for at once."""

    def __init__(self, scores: Scores, n_unscored: int = 0) -> None:
        self.scores, self.sizes = scores, list[int]()
        self.schema = DataSchema(len(scores), scores.shape[1], n_without_events=n_unscored)

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        self.sizes.append(len(queries))
        return self.scores[queries.users]


def sizes(n: int, n_items: int, **limits: int) -> tuple[list[int], list[int]]:
    """Return the sizes of the blocks that the model scores, and of those that the caller gets."""
    model = Recorder(np.arange(n * n_items, dtype=np.float32).reshape(n, n_items))
    queries = Queries.of_users(np.arange(n, dtype=np.int32), Events.of([[]] * n))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in limits.items():
            patch.setattr(module, name, value)
        blocks = [(block.users.tolist(), scores.copy()) for block, scores in score_blocks(model, queries)]
    assert [user for users, _ in blocks for user in users] == list(range(n))
    np.testing.assert_array_equal(np.concatenate([scores for _, scores in blocks]), model.scores)
    return model.sizes, [len(users) for users, _ in blocks]


def test_a_block_has_at_most_the_configured_number_of_scores() -> None:
    blocks, parts = sizes(25, 10, BLOCK_SCORES=100, CACHE_SCORES=40, MIN_ROWS=1)
    assert blocks == [10, 10, 5]
    assert parts == [4, 4, 2, 4, 4, 2, 4, 1]
    assert sizes(3, 10, BLOCK_SCORES=9, CACHE_SCORES=9, MIN_ROWS=1) == ([1, 1, 1], [1, 1, 1])


def test_a_large_catalog_has_at_least_some_queries_per_block_within_the_memory_limit() -> None:
    limits = {"BLOCK_SCORES": 10, "CACHE_SCORES": 1_000, "MIN_ROWS": 4}
    assert sizes(9, 10, MAX_BLOCK_SCORES=1_000, **limits)[0] == [4, 4, 1]
    assert sizes(9, 10, MAX_BLOCK_SCORES=30, **limits)[0] == [3, 3, 3]
    assert sizes(2, 10, MAX_BLOCK_SCORES=1, **limits)[0] == [1, 1]


def test_a_score_that_is_not_finite_is_reported_with_its_query_and_item() -> None:
    scores = np.zeros((7, 5), np.float32)
    scores[5, 3] = np.nan
    queries = Queries.of_users(np.arange(7, dtype=np.int32), Events.of([[]] * 7))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_SCORES", 15)
        patch.setattr(module, "MIN_ROWS", 1)
        patch.setattr(module, "CACHE_SCORES", 10)
        with pytest.raises(NonFiniteScoreError, match="score of item 3 for query 5 is nan"):
            list(score_blocks(Recorder(scores), queries))


def test_items_without_events_have_lower_scores_than_all_others() -> None:
    scores = np.array([[3.0, -2.0, 5.0, 9.0, 9.0], [0.5, 0.5, 0.5, 9.0, 9.0]], np.float32)
    queries = Queries.of_users(np.arange(2, dtype=np.int32), Events.of([[0], []]))
    actual = recommend(Recorder(scores, n_unscored=2), queries, 5)
    assert actual.lengths.tolist() == [4, 5]
    assert actual.items.tolist() == [[2, 1, 3, 4, 0], [0, 1, 2, 3, 4]]
    assert actual.scores[0, :4].tolist() == [5.0, -2.0, -3.0, -3.0]
    assert actual.scores[1].tolist() == [0.5, 0.5, 0.5, -0.5, -0.5]


def test_another_shape_of_scores_is_an_error() -> None:
    model = Recorder(np.zeros((2, 5), np.float32))
    model.score = lambda queries, candidates=None: np.zeros((len(queries), 4), np.float32)  # type: ignore[method-assign]
    queries = Queries.of_users(np.arange(2, dtype=np.int32), Events.of([[], []]))
    with pytest.raises(ValueError, match=r"got scores \(2, 4\), expected \(2, 5\)"):
        recommend(model, queries, 1)


def test_probabilities_of_logits_and_their_normalization() -> None:
    scores = np.array([[0.0, 1.0, -np.inf], [-np.inf] * 3, [1000.0, 1000.0, 999.0]], np.float32)
    total = log_partition(scores)
    assert total[0] == pytest.approx(np.log(1 + np.e), rel=1e-6)
    assert total[1] == -np.inf
    assert total[2] == pytest.approx(1000 + np.log(2 + 1 / np.e), rel=1e-6)
    best = top_k(scores, 2, total)
    assert best.probabilities is not None
    assert best.probabilities[0] == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e)], rel=1e-5)
    assert best.probabilities[1].tolist() == [0.0, 0.0]
    assert best.probabilities[2] == pytest.approx([1 / (2 + 1 / np.e)] * 2, rel=1e-3)


@pytest.mark.parametrize("n_items", [15, 16, 17, 31, 32, 33, 100])
@pytest.mark.parametrize("k", [1, 2, 6, 15, 16, 17])
def test_the_best_k_where_groups_of_items_begin_and_end(n_items: int, k: int) -> None:
    rng = np.random.default_rng(n_items * k)
    for levels in (2, 1000):
        scores = rng.integers(0, levels, (6, n_items)).astype(np.float32)
        scores[rng.random((6, n_items)) < 0.2] = -np.inf
        best = top_k(scores, k)
        for row, items, values, length in zip(scores, best.items, best.scores, best.lengths, strict=True):
            expected = [j for j in sorted(range(n_items), key=lambda j: (-row[j], j)) if row[j] > -np.inf][:k]
            assert items[:length].tolist() == expected
            assert values[:length].tolist() == [row[j] for j in expected]


@pytest.mark.parametrize("k", [16, 17, 20, 25])
def test_more_items_than_a_group_has_of_a_large_catalog(k: int) -> None:
    scores = np.random.default_rng(k).permuted(np.tile(np.arange(400, dtype=np.float32), (5, 1)), axis=1)
    best = top_k(scores, k)
    assert best.lengths.tolist() == [k] * 5
    assert best.scores.tolist() == [list(range(399, 399 - k, -1))] * 5


@pytest.mark.parametrize("k", [1, 3, 4, 5, 9])
def test_the_mask_of_the_best_k_has_k_columns_and_prefers_the_first_of_ties(k: int) -> None:
    scores = np.array([[3, 2, 2, 0, 2], [0, 0, 0, 0, 0], [-np.inf, 1, -np.inf, 1, -np.inf]], np.float32)
    for row, mask in zip(scores, module._topk_mask(scores, k), strict=True):
        best = [j for j in sorted(range(5), key=lambda j: (-row[j], j)) if row[j] > -np.inf][:k]
        assert np.flatnonzero(mask).tolist() == sorted(best)


@pytest.mark.parametrize("k", [1, 2, 3, 40, 41])
def test_at_least_k_items_reach_the_lower_bound(k: int) -> None:
    scores = np.random.default_rng(k).normal(size=(5, 40)).astype(np.float32)
    bound = module._topk_lower_bound(scores, k)
    assert bound.shape == (5, 1)
    n_reached = (scores >= bound).sum(axis=1)
    assert (n_reached >= min(k, 40)).all()
    if k <= 2:  # the two groups of 16 items have two maxima
        assert (np.partition(scores, -2, axis=1)[:, -k] >= bound[:, 0]).all()
        assert (n_reached <= 40 // 2).all()
