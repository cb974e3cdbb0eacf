"""Counts and mean labels of groups of examples as inputs of gradient boosting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.events import Events
from segue.core.examples.click_model import ClickModel
from segue.core.examples.fields import Examples, Field
from segue.core.run import Run
from segue.core.types import Queries
from segue.evaluation.click_metrics import auc
from segue.solvers.boosting.target_statistics import TargetStatistics
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

SETS = (("user",), ("user", "item"))
FIELDS = (Field("user", "category", 6), Field("item", "category", 5), Field("price", "number"))
SMALL = {"iterations": 40, "min_examples": 5, "num_leaves": 7}


def examples(count: int, seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(6, size=count), rng.integers(5, size=count)], axis=1)
    return Examples(FIELDS, codes, rng.normal(size=(count, 1)), labels=rng.integers(2, size=count))


def slow_numbers(codes: Any, labels: Any, row: Any, columns: list[int], mean: float, scale: float = 1.0) -> list[float]:
    """Compute the numbers of one row by a loop."""
    is_same = (codes[:, columns] == row[columns]).all(1)
    count, positives = is_same.sum() * scale, labels[is_same].sum() * scale
    return [np.log1p(count), np.log1p(positives), (positives + 2 * mean) / (count + 2)]


def test_statistics_by_a_loop() -> None:
    train, other = examples(200), examples(50, 1)
    found, extended = TargetStatistics.fit(train, SETS, 2.0, 4, np.random.default_rng(3))
    assert train.labels is not None
    folds, mean = np.random.default_rng(3).integers(4, size=200), train.labels.mean()
    for row in range(200):
        rest = folds != folds[row]
        expected = [
            number
            for columns in ([0], [0, 1])
            for number in slow_numbers(train.codes[rest], train.labels[rest], train.codes[row], columns, mean, 4 / 3)
        ]
        np.testing.assert_allclose(extended.numbers[row, 1:], expected, rtol=1e-5)
    later = found.extend(other)
    for row in range(50):
        expected = [
            number
            for columns in ([0], [0, 1])
            for number in slow_numbers(train.codes, train.labels, other.codes[row], columns, mean)
        ]
        np.testing.assert_allclose(later.numbers[row, 1:], expected, rtol=1e-5)
    assert [one.name for one in later.fields] == ["user", "item", "price", *found.names]
    assert found.names[3:] == ("user*item:count", "user*item:positives", "user*item:mean")


def table(count: int, seed: int, is_random: bool = False) -> pl.DataFrame:
    """Return examples whose label depends on the pair of user and item, each pair independently."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(50, size=count), rng.integers(40, size=count)
    labels = np.random.default_rng(99).integers(2, size=(50, 40))[users, items] ^ (rng.random(count) < 0.1)
    if is_random:
        labels = rng.integers(2, size=count)
    return pl.DataFrame({"label": labels, "user": users, "item": items})


def valid_auc(known: pl.DataFrame, valid: pl.DataFrame, **settings: Any) -> float:
    split = segue.split_examples(known, valid=0.2, test=0.0)
    model = segue.train_clicks("gradient_boosting", split.train, split.valid, label="label", **SMALL, **settings)
    return auc(valid["label"].to_numpy(), model.predict(valid))


def test_statistics_of_pairs_learn_what_depends_on_pairs() -> None:
    known, valid = table(25_000, 0), table(2_000, 1)
    assert valid_auc(known, valid) < 0.8
    assert valid_auc(known, valid, target_statistics=[["user", "item"]]) > 0.88  # the noise of the labels allows 0.9


def test_labels_do_not_leak_into_the_statistics_of_their_examples() -> None:
    known = table(3_000, 0, is_random=True)
    model = segue.train_clicks(
        "gradient_boosting", known, known.head(100), label="label", target_statistics=[["user", "item"]], **SMALL
    )
    statistics, extended = TargetStatistics.fit(
        model.encoder.encode(known), (("user", "item"),), 1.0, 10, np.random.default_rng(0)
    )
    labels = known["label"].to_numpy()
    assert abs(auc(labels, extended.numbers[:, 2]) - 0.5) < 0.05
    assert auc(labels, statistics.extend(model.encoder.encode(known)).numbers[:, 2]) > 0.75  # contains the own label


def test_saved_models_have_their_statistics(tmp_path: Path) -> None:
    known, valid = table(2_000, 0), table(300, 1)
    model = segue.train_clicks(
        "gradient_boosting", known, valid, label="label", target_statistics=[["user", "item"], ["item"]], **SMALL
    )
    model.save(tmp_path / "model")
    rows = {"user": [1, 2, 999, None], "item": [3, 4, 5, 6]}
    np.testing.assert_array_equal(ClickModel.load(tmp_path / "model").predict(rows), model.predict(rows))


def test_statistics_of_a_log() -> None:
    rows = np.random.default_rng(0).integers(12, size=(60, 6))
    settings = {"iterations": 10, "min_examples": 5, "inputs": (), "target_statistics": [["item"]]}
    model: Any = train("gradient_boosting", settings, Training(), dataset(Events.of(rows), 12), Run(0))
    assert model.statistics.counts[0].sum() == rows.size + 4 * rows.size  # four sampled items per event
    assert np.isfinite(model.score(Queries.anonymous(Events.of(rows)))).all()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([["user", "itme"]], r"model\.target_statistics: 'itme' is no field of categories, did you mean 'item'\?"),
        ([["user"], ["user"]], "model.target_statistics: user occurs twice"),
        ([[]], "target_statistics"),
    ],
)
def test_wrong_sets(sets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.train_clicks(
            "gradient_boosting", table(200, 0), table(100, 1), label="label", target_statistics=sets, **SMALL
        )
