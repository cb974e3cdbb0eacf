"""Every metric equals its definition, written as a loop over one query or item at a time, on random input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.core.types import Ranks, Recommendations
from segue.evaluation import metrics, rating_metrics
from segue.evaluation.rating_metrics import PredictionErrors

Query = tuple[list[bool], int]
"""Whether the item at each rank is relevant, and the number of relevant items that are no candidates."""

query = st.tuples(st.lists(st.booleans(), min_size=1, max_size=25), st.integers(0, 3))
queries = st.lists(query, min_size=1, max_size=8)


def ranks_of(drawn: list[Query]) -> Ranks:
    """Build ranks without ties; the targets of a query are in random order."""
    rng = np.random.default_rng(len(drawn))
    higher, offsets = [], [0]
    for is_relevant, n_missing in drawn:
        own = np.append(np.flatnonzero(is_relevant), np.full(n_missing, len(is_relevant)))
        higher.append(rng.permutation(own))
        offsets.append(offsets[-1] + len(own))
    flat = np.concatenate(higher).astype(np.int64)
    candidates = np.array([len(is_relevant) for is_relevant, _ in drawn])
    return Ranks(np.array(offsets), flat, np.zeros_like(flat), candidates, Recommendations.concat([], 1))


def dcg(is_relevant: list[bool]) -> float:
    return sum(1 / math.log2(1 + rank) for rank, one in enumerate(is_relevant, 1) if one)


def define(name: str, is_relevant: list[bool], relevant: int, k: int) -> float:
    """Compute a metric of one query from its definition."""
    top = is_relevant[:k]
    found = sum(top)
    precision, recall = found / k, found / relevant
    ideal = [True] * min(k, relevant)
    match name:
        case "recall":
            return recall
        case "precision":
            return precision
        case "hit_rate":
            return float(any(top))
        case "f1":
            return 2 * precision * recall / (precision + recall) if found else 0.0
        case "mrr":
            return 1 / (1 + top.index(True)) if found else 0.0
        case "map":
            return sum(sum(top[:rank]) / rank for rank, one in enumerate(top, 1) if one) / len(ideal)
        case "ndcg":
            return dcg(top) / dcg(ideal)
        case "rbp":
            return sum(0.2 * 0.8 ** (rank - 1) for rank, one in enumerate(top, 1) if one)
        case "r_precision":
            return sum(is_relevant[:relevant]) / relevant
    raise AssertionError(name)


@pytest.mark.parametrize("name", [name for name in metrics.__all__ if name != "auc"])
@settings(deadline=None, max_examples=80)
@given(drawn=queries, k=st.integers(1, 30))
def test_ranking_metrics(name: str, drawn: list[Query], k: int) -> None:
    ranks, function = ranks_of(drawn), getattr(metrics, name)
    found = function(ranks) if name == "r_precision" else function(ranks, k)
    relevant = [sum(is_relevant) + n_missing for is_relevant, n_missing in drawn]
    expected = [
        define(name, is_relevant, count, k) if count else math.nan
        for (is_relevant, _), count in zip(drawn, relevant, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@settings(deadline=None, max_examples=80)
@given(drawn=queries)
def test_auc(drawn: list[Query]) -> None:
    """Count the pairs of a relevant and another item in the right order; those of a missing item are not."""
    expected = []
    for is_relevant, n_missing in drawn:
        good = [rank for rank, one in enumerate(is_relevant) if one]
        other = [rank for rank, one in enumerate(is_relevant) if not one]
        pairs = (len(good) + n_missing) * len(other)
        expected.append(sum(a < b for a in good for b in other) / pairs if pairs else math.nan)
    np.testing.assert_allclose(metrics.auc(ranks_of(drawn)), expected, rtol=1e-12)


@settings(deadline=None, max_examples=40)
@given(drawn=queries, k=st.integers(1, 12), persistence=st.floats(0.01, 0.99))
def test_rbp_is_at_most_that_of_a_list_of_relevant_items(drawn: list[Query], k: int, persistence: float) -> None:
    values = metrics.rbp(ranks_of(drawn), k, persistence)
    assert np.nanmax([*values, 0.0]) <= 1 - persistence**k + 1e-12
    best = metrics.rbp(ranks_of([([True] * k, 0)]), k, persistence)
    assert best[0] == pytest.approx(1 - persistence**k)


@st.composite
def drawn_errors(draw: st.DrawFn) -> PredictionErrors:
    """Draw few users and items, so that pairs occur twice and items with one user."""
    n = draw(st.integers(1, 40))
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = np.sort(rng.integers(0, n_users, n))
    errors = rng.normal(0.2, 1.0, n) * (rng.random(n) < 0.8)
    return PredictionErrors(rows, rng.integers(0, n_items, n).astype(np.int32), errors, n_users)


def error_of(name: str, errors: np.ndarray) -> float:
    return float(np.sqrt(np.square(errors).mean()) if name.startswith("rmse") else np.abs(errors).mean())


def mean_by(name: str, drawn: PredictionErrors, labels: np.ndarray) -> float:
    """Average the errors of each user or item."""
    return float(np.mean([error_of(name, drawn.errors[labels == one]) for one in np.unique(labels)]))


@settings(deadline=None, max_examples=80)
@given(drawn=drawn_errors())
def test_rating_metrics(drawn: PredictionErrors) -> None:
    has_value = np.isin(np.arange(len(drawn)), drawn.rows)
    for name in rating_metrics.__all__:
        values = getattr(rating_metrics, name)(drawn)
        assert np.isnan(values).tolist() == (~has_value).tolist(), name
        by = {"user": drawn.rows, "item": drawn.items}.get(name.rpartition("_")[2], np.zeros_like(drawn.rows))
        assert np.nanmean(values) == pytest.approx(mean_by(name, drawn, by), abs=1e-12), name
    for name in ("rmse_by_user", "mae_by_user"):
        expected = [error_of(name, drawn.errors[drawn.rows == row]) for row in np.flatnonzero(has_value)]
        np.testing.assert_allclose(getattr(rating_metrics, name)(drawn)[has_value], expected, rtol=1e-12)


@settings(deadline=None, max_examples=60)
@given(drawn=drawn_errors())
def test_errors_by_item_are_jackknife_values(drawn: PredictionErrors) -> None:
    users = np.unique(drawn.rows)
    if len(users) < 2:
        return
    for name in ("rmse_by_item", "mae_by_item"):
        without = []
        for user in users:
            rest = drawn.select_targets(drawn.rows != user)
            without.append(mean_by(name, rest, rest.items))
        expected = mean_by(name, drawn, drawn.items) + (len(users) - 1) * (np.mean(without) - np.array(without))
        np.testing.assert_allclose(getattr(rating_metrics, name)(drawn)[users], expected, rtol=1e-6, atol=1e-7)
