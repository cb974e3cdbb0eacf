"""Areas under the ROC curve, compared with pairs and with scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.evaluation.click_metrics import (
    auc,
    average_precision,
    best_threshold,
    calibration_error,
    f1,
    gauc,
    log_loss,
    reliability,
    uauc,
    user_aucs,
)

sklearn = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")


def events(seed: int, size: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=size)
    labels[:2] = 0, 1
    return rng.integers(5, size=size), labels, rng.integers(8, size=size) / 4.0


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 30))
def test_areas_are_those_of_scikit_learn(seed: int, size: int) -> None:
    users, labels, scores = events(seed, size)
    assert auc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores))
    expected = {
        user: (sklearn.roc_auc_score(labels[users == user], scores[users == user]), (users == user).sum())
        for user in np.unique(users)
        if len(set(labels[users == user])) == 2
    }
    found_users, areas, counts = user_aucs(users, labels, scores)
    assert found_users.tolist() == list(expected)
    np.testing.assert_allclose(areas, [area for area, _ in expected.values()])
    assert counts.tolist() == [count for _, count in expected.values()]
    if expected:
        assert uauc(users, labels, scores) == pytest.approx(areas.mean())
        assert gauc(users, labels, scores) == pytest.approx((areas * counts).sum() / counts.sum())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_areas_have_the_properties_of_ranks(seed: int) -> None:
    users, labels, scores = events(seed, 40)
    assert auc(labels, scores) == pytest.approx(auc(labels, np.exp(scores)))
    assert auc(labels, -scores) == pytest.approx(1 - auc(labels, scores))
    assert auc(1 - labels, scores) == pytest.approx(1 - auc(labels, scores))
    shifted = scores + 100.0 * users  # a constant per user changes the order between users only
    assert uauc(users, labels, shifted) == pytest.approx(uauc(users, labels, scores))
    assert auc(labels, np.zeros(40)) == 0.5


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_log_loss_is_that_of_scikit_learn(seed: int) -> None:
    _, labels, _ = events(seed, 30)
    probabilities = np.random.default_rng(seed).uniform(0.01, 0.99, 30)
    assert log_loss(labels, probabilities) == pytest.approx(sklearn.log_loss(labels, probabilities))
    assert log_loss(np.array([1, 0]), np.array([0.0, 0.5])) == np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auc(np.array([0, 1]), np.array([1.0])), "scores: got 1 for 2 labels"),
        (lambda: auc(np.array([0, 2]), np.array([1.0, 2])), "labels: got 2 at index 1, expected 0 or 1"),
        (lambda: auc(np.array([0, 1]), np.array([1.0, np.nan])), "scores: got nan at index 1"),
        (lambda: auc(np.array([1, 1]), np.array([1.0, 2])), "labels: all 2 are equal"),
        (lambda: uauc(np.array([0]), np.array([0, 1]), np.array([1.0, 2])), "users: got 1 for 2 labels"),
        (lambda: uauc(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 2])), "users: none has both"),
        (lambda: gauc(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 2])), "users: none has both"),
        (lambda: log_loss(np.array([0, 1]), np.array([0.5, 1.5])), "probabilities: got 1.5 at index 1"),
        (lambda: log_loss(np.zeros(0), np.zeros(0)), "labels: got none"),
    ],
)
def test_wrong_arguments_are_named(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(2, 30))
def test_average_precision_and_f1_are_those_of_scikit_learn(seed: int, size: int) -> None:
    _, labels, scores = events(seed, size)
    assert average_precision(labels, scores) == pytest.approx(sklearn.average_precision_score(labels, scores))
    for threshold in (0.0, 0.5, 3.0):
        expected = sklearn.f1_score(labels, scores >= threshold, zero_division=0)
        assert f1(labels, scores, threshold) == pytest.approx(expected)
    best = best_threshold(labels, scores)
    values = {threshold: f1(labels, scores, threshold) for threshold in np.unique(scores)}
    assert best in values
    assert values[best] == pytest.approx(max(values.values()))
    assert best == max(one for one, value in values.items() if np.isclose(value, max(values.values())))


def test_reliability_and_calibration_error_have_known_answers() -> None:
    p = np.repeat([0.1, 0.4, 0.8], 10)
    labels = np.concatenate([np.arange(10) < 1, np.arange(10) < 6, np.arange(10) < 8])
    assert reliability(labels, p, bins=3).tolist() == [
        [10, pytest.approx(0.1), pytest.approx(0.1)],
        [10, pytest.approx(0.4), pytest.approx(0.6)],
        [10, pytest.approx(0.8), pytest.approx(0.8)],
    ]
    assert calibration_error(labels, p, bins=3) == pytest.approx(0.2 / 3)
    assert reliability(labels, np.full(30, 0.5)).tolist() == [[30, 0.5, 0.5]]
    rng = np.random.default_rng(0)
    q = rng.random(20_000)
    drawn = rng.random(20_000) < q
    counts = reliability(drawn, q)[:, 0]
    assert counts.sum() == 20_000
    assert counts.max() - counts.min() <= 1
    assert calibration_error(drawn, q) < 0.015 < 0.1 < calibration_error(drawn, np.sqrt(q))


def test_no_positive_event_is_an_error_of_average_precision() -> None:
    with pytest.raises(ValueError, match="none of 3 is positive"):
        average_precision(np.zeros(3), np.arange(3))
    assert f1(np.zeros(3), np.arange(3), 10.0) == 0
