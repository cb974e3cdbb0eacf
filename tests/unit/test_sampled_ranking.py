"""Ranking among sampled items: the sample, the ranks and the names of the metrics."""

import numpy as np
import pytest

from segue.core.types import Events, HeldOut, Queries
from segue.evaluation.evaluate import evaluate
from segue.evaluation.ranking import rank
from segue.evaluation.sampled import rank_sampled, sample_candidates
from tests.fixed_scores import Fixed


def make_held_out(n: int = 300, n_items: int = 40, seed: int = 0) -> HeldOut:
    rng = np.random.default_rng(seed)
    rows = [rng.choice(n_items, size=rng.integers(1, 9), replace=False).tolist() for _ in range(n)]
    return HeldOut(Queries.anonymous(Events.of([row[:-1] for row in rows])), Events.of([row[-1:] for row in rows]))


def test_sampled_items_are_distinct_and_unseen() -> None:
    held_out = make_held_out()
    sample = sample_candidates(held_out, 40, 12, seed=3)
    np.testing.assert_array_equal(sample[:, 0], held_out.targets.items)
    assert all(len(set(row)) == 13 for row in sample.tolist())
    is_seen = np.zeros((len(held_out), 40), bool)
    is_seen[held_out.queries.history.rows, held_out.queries.history.items] = True
    assert not np.take_along_axis(is_seen, sample.astype(np.int64), axis=1).any()
    np.testing.assert_array_equal(sample_candidates(held_out, 40, 12, seed=3), sample)
    assert (sample_candidates(held_out, 40, 12, seed=4) != sample).any()


def test_items_are_sampled_uniformly() -> None:
    held_out = HeldOut(Queries.anonymous(Events.of([[0]] * 4000)), Events.of([[1]] * 4000))
    counts = np.bincount(sample_candidates(held_out, 12, 5, seed=0)[:, 1:].ravel(), minlength=12)[2:]
    assert counts.sum() == 20_000
    assert abs(counts - 2000).max() < 5 * np.sqrt(2000 * 0.5)


def test_sampling_all_items_equals_the_whole_catalog() -> None:
    n_items = 9
    rng = np.random.default_rng(1)
    rows = [rng.permutation(n_items)[:4].tolist() for _ in range(50)]
    held_out = HeldOut(Queries.anonymous(Events.of([row[:3] for row in rows])), Events.of([row[3:] for row in rows]))
    model = Fixed([1, 5, 2, 2, 0, 3, 3, 3, 4])
    sampled, full = rank_sampled(model, held_out, n_items - 4), rank(model, held_out)
    np.testing.assert_array_equal(sampled.n_higher, full.n_higher)
    np.testing.assert_array_equal(sampled.n_tied, full.n_tied)
    np.testing.assert_array_equal(sampled.n_candidates, full.n_candidates)


def test_sampled_metrics_have_their_own_names() -> None:
    measured = evaluate(Fixed(list(range(40))), make_held_out(), ks=(10,), sampled=12)
    assert {"ndcg@10", "sampled_ndcg@10", "sampled_hit_rate@10"} <= measured.estimates.keys()
    assert measured.estimates["sampled_hit_rate@10"].mean > measured.estimates["hit_rate@10"].mean
    assert measured.metadata["sampled_candidates"] == 12
    assert measured.metadata["candidates"] == "whole catalog"


def test_too_few_items_and_several_targets_are_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"have fewer than 39 unseen items among 40; .* expected at least 39 to sample"
    ):
        rank_sampled(Fixed([0.0] * 40), make_held_out(), 39)
    two_targets = HeldOut(Queries.anonymous(Events.of([[0]])), Events.of([[1, 2]]))
    with pytest.raises(ValueError, match="query 0 has 2 targets, expected at most one"):
        rank_sampled(Fixed([0.0] * 40), two_targets, 3)
