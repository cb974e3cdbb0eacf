"""Calibration of probabilities: compared with scikit-learn, and in worlds whose distortion is known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit

import segue
from segue.core.examples.calibration import Calibration
from segue.evaluation.click_metrics import auc, calibration_error

METHODS: tuple[Any, ...] = ("platt", "temperature", "isotonic")


def world(seed: int = 0, size: int = 4_000) -> tuple[Any, Any]:
    """Return true logits, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, size)
    return logits, (rng.random(size) < expit(logits)).astype(np.float32)


@pytest.mark.parametrize("method", METHODS)
def test_a_known_distortion_is_undone(method: Any) -> None:
    logits, labels = world()
    distorted = 3.0 * logits + (0.0 if method == "temperature" else 2.0)
    found = Calibration.fit(method, distorted, labels)
    p = found.apply(distorted)
    assert np.abs(p - expit(logits)).mean() < (0.03 if method == "isotonic" else 0.02)
    assert calibration_error(labels, p) < 0.03 < calibration_error(labels, expit(distorted))
    assert auc(labels, p) == pytest.approx(auc(labels, logits), abs=0.005)
    if method == "platt":
        assert found.x == pytest.approx((1 / 3, -2 / 3), abs=0.06)
    if method == "temperature":
        assert found.x[0] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_order_is_kept_and_probabilities_are_inside(method: Any) -> None:
    logits, labels = world(1, 300)
    found = Calibration.fit(method, logits, labels)
    p = found.apply(np.linspace(-50, 50, 500))
    assert (np.diff(p) >= 0).all()
    assert (p >= 0).all()
    assert (p <= 1).all()
    if method == "isotonic":  # no label is impossible
        assert p.min() >= 1e-6
        assert p.max() <= 1 - 1e-6


def test_isotonic_is_that_of_scikit_learn() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic", reason="needs scikit-learn")
    rng = np.random.default_rng(2)
    logits = np.round(rng.normal(size=200), 1)  # with ties
    labels = (rng.random(200) < expit(2 * logits)).astype(float)
    found = Calibration.fit("isotonic", logits, labels)
    reference = isotonic.IsotonicRegression(out_of_bounds="clip").fit(expit(logits), labels)
    points = np.linspace(-4, 4, 101)
    expected = np.clip(reference.predict(expit(points)), 1e-6, 1 - 1e-6)
    np.testing.assert_allclose(found.apply(points), expected, atol=1e-6)


def test_platt_is_logistic_regression_with_his_targets() -> None:
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    logits, labels = world(3, 400)
    n = labels.sum()
    targets = np.where(labels > 0, (n + 1) / (n + 2), 1 / (len(labels) - n + 2))
    doubled = np.concatenate([logits, logits])[:, None]  # soft targets are pairs of weighted labels
    truth = np.repeat([1, 0], len(logits))
    model = linear.LogisticRegression(C=1e8, tol=1e-9).fit(doubled, truth, np.concatenate([targets, 1 - targets]))
    found = Calibration.fit("platt", logits, labels)
    assert found.x == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_it_is_stored_as_json(method: Any) -> None:
    logits, labels = world(4, 200)
    found = Calibration.fit(method, logits, labels)
    again = Calibration.from_json(json.loads(json.dumps(found.to_json())))
    assert (again.apply(logits) == found.apply(logits)).all()


@pytest.mark.parametrize("method", METHODS)
def test_separable_labels_have_finite_parameters(method: Any) -> None:
    found = Calibration.fit(method, np.array([-2.0, -1.0, 1.0, 2.0]), np.array([0, 0, 1, 1]))
    assert np.isfinite(found.x).all()
    assert np.isfinite(found.apply(np.array([-1e3, 0.0, 1e3]))).all()


def test_unusable_input_is_an_error() -> None:
    with pytest.raises(ValueError, match="calibration: got 'beta', expected platt, temperature, isotonic"):
        Calibration.fit("beta", np.zeros(2), np.array([0, 1]))  # type: ignore[arg-type]
    for labels in (np.ones(3), np.zeros(0)):
        with pytest.raises(ValueError, match="labels are equal, expected positive and negative ones"):
            Calibration.fit("platt", np.zeros(len(labels)), labels)


def test_isotonic_probabilities_do_not_depend_on_rounding_errors_of_logits() -> None:
    """Those of a row differ by some 1e-7 between batches; steps between almost equal logits made 3e-4 of them."""
    logits, labels = world(5, 3_000)
    logits[1::2] = logits[::2] + 1e-7  # pairs of almost equal logits
    labels[1::2] = 1 - labels[::2]
    labels[::2] = np.arange(0, 3_000, 2) % 3 > 0
    found = Calibration.fit("isotonic", logits, labels)
    change = np.abs(found.apply(logits + 2.4e-7) - found.apply(logits))
    assert change.max() < 1e-5
    distances = np.diff(np.log(found.x) - np.log1p(-np.array(found.x)))
    assert distances.min() > 0.000_9 * np.ptp(logits)
    separable = Calibration.fit("isotonic", np.array([-50.0, -40.0, 1.0, 1.001, 40.0]), np.array([0, 0, 1, 0, 1]))
    np.testing.assert_allclose(separable.apply(np.array([-60.0, 1.0005, 60.0])), [1e-6, 0.5, 1 - 1e-6])


def test_isotonic_calibration_of_a_narrow_range_of_logits_keeps_their_order() -> None:
    """Such as those of a network after few steps, or of very rare labels."""
    logits, labels = world(5, 3_000)
    wide, narrow = (Calibration.fit("isotonic", scale * logits, labels) for scale in (1.0, 1e-3))
    np.testing.assert_allclose(narrow.apply(1e-3 * logits), wide.apply(logits), atol=0.02)
    assert len(set(narrow.apply(1e-3 * logits))) > 10


def test_a_batch_and_a_single_row_have_the_same_calibrated_probability() -> None:
    rng = np.random.default_rng(0)
    users, items, x = rng.integers(30, size=1_500), rng.integers(40, size=1_500), rng.normal(size=1_500)
    p = expit(2.0 * (users % 2 == items % 2) - 1 + x)
    table = pl.DataFrame({"label": (rng.random(1_500) < p).astype(int), "user": users, "item": items, "x": x})
    model = segue.train_clicks(
        "wide_deep", table[:800], table[800:1_300], calibration="isotonic", epochs=2, batch_size=64, embedding_dim=4
    )
    rows = table[1_300:]
    whole = model.predict(rows)
    alone = np.concatenate([model.predict(rows[at : at + 1]) for at in range(100)])
    np.testing.assert_allclose(alone, whole[:100], atol=1e-5)
