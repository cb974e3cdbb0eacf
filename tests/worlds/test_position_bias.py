"""Position bias: inverse propensities recover the order of items that clicks alone reverse."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import segue
from segue.core.examples.propensities import (
    estimate_by_clicks,
    estimate_by_counts,
    estimate_by_items,
    inverse_propensities,
    read_positions,
)
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset
from segue.training.settings import Training
from segue.training.train import train

N_ITEMS = 6
PROPENSITIES = 1 / np.arange(1, N_ITEMS + 1)
ATTRACTIONS = np.array([0.08, 0.1, 0.13, 0.17, 0.22, 0.3])
"""The best item is the last one; the ranking that is shown has it at the bottom."""


@cache
def pages(count: int, random_share: float, seed: int = 0) -> NDArray[np.int64]:
    """Return the item at each position of each page: the worst ranking, or a random one."""
    rng = np.random.default_rng(seed)
    shown = np.tile(np.arange(N_ITEMS), (count, 1))
    is_random = rng.random(count) < random_share
    shown[is_random] = rng.permuted(shown[is_random], axis=1)
    return shown


@cache
def impressions(random_share: float = 0.3) -> pl.DataFrame:
    rng, shown = np.random.default_rng(1), pages(4_000, random_share)
    clicks = rng.random(shown.shape) < PROPENSITIES * ATTRACTIONS[shown]
    return pl.DataFrame(
        {
            "click": clicks.ravel().astype(int),
            "page": np.repeat(np.arange(len(shown)), N_ITEMS),
            "item": shown.ravel(),
            "position": np.tile(np.arange(1, N_ITEMS + 1), len(shown)),
        }
    )


def arrays(table: pl.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    positions, clicks, items = (table[name].to_numpy() for name in ("position", "click", "item"))
    return positions, clicks, items


def test_random_positions_give_the_propensities() -> None:
    positions, clicks, items = arrays(impressions(1.0))
    np.testing.assert_allclose(estimate_by_clicks(positions, clicks), PROPENSITIES, atol=0.08)
    np.testing.assert_allclose(estimate_by_items(positions, clicks, items), PROPENSITIES, atol=0.08)
    np.testing.assert_allclose(estimate_by_counts(positions[clicks == 1]), PROPENSITIES, atol=0.08)


def test_items_at_several_positions_give_the_propensities_of_any_ranking() -> None:
    positions, clicks, items = arrays(impressions())
    np.testing.assert_allclose(estimate_by_items(positions, clicks, items), PROPENSITIES, atol=0.12)
    assert np.abs(estimate_by_clicks(positions, clicks) - PROPENSITIES).max() > 0.15


def test_weights_are_clipped_inverses() -> None:
    found = inverse_propensities([1.0, 0.5, 0.01], np.array([1, 2, 3, 9, 0]), 0.1)
    np.testing.assert_allclose(found, [1, 2, 10, 10, 1])


@pytest.mark.parametrize(
    ("positions", "message"),
    [([1.0, 0.0], "row 2: got 0,"), ([1.5], "row 1: got 1.5,"), ([np.inf], "row 1: got inf"), ([20_000.0], "20000")],
)
def test_numbers_that_are_no_positions_are_errors(positions: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_positions("rank", np.array(positions))


def order(key: str, table: pl.DataFrame, **settings: Any) -> list[int]:
    """Return the items in the order of a model, the worst first."""
    kinds: dict[str, Any] = {"columns": {"item": "category", "page": "ignore"}, "user": "page"}
    model = segue.train_clicks(key, table, label="click", **kinds, **settings)
    return np.argsort(model.predict({"item": np.arange(N_ITEMS)})).tolist()  # type: ignore[no-any-return]


WEIGHTED: dict[str, Any] = {"position": "position", "propensities": "items", "position_item": "item"}
SOFTMAX = {"objective": "softmax", "epochs": 6, "embedding_dim": 4, "hidden": [4], "learning_rate": 0.02}


@pytest.mark.parametrize(("key", "settings"), [("logistic_regression", {}), ("wide_deep", SOFTMAX)])
@pytest.mark.filterwarnings("ignore:train. there are no validation rows")
def test_inverse_propensities_recover_the_order(key: str, settings: dict[str, Any]) -> None:
    truth = list(range(N_ITEMS))
    weighted = order(key, impressions(), **settings, **WEIGHTED)
    unweighted = order(key, impressions().drop("position"), **settings)
    assert weighted[-2:] == truth[-2:]
    assert np.corrcoef(weighted, truth)[0, 1] > 0.8
    assert np.corrcoef(unweighted, truth)[0, 1] < 0.6


def clicked_log() -> Dataset:
    """Users whose last event is a click on a page, after a random item that says nothing."""
    rng, shown = np.random.default_rng(2), pages(2_500, 0.1)
    chances = PROPENSITIES * ATTRACTIONS[shown]
    chosen = np.array([rng.choice(N_ITEMS, p=row / row.sum()) for row in chances])
    earlier = rng.integers(N_ITEMS, size=len(chosen))
    rows = [[int(earlier[page]), int(shown[page, position])] for page, position in enumerate(chosen)]
    positions = np.stack([np.full(len(rows), np.nan), chosen + 1.0], axis=1).ravel().astype(np.float32)
    data = dataset(Events.of(rows), N_ITEMS)
    histories = replace(data.histories, context={"position": positions})
    return replace(data, histories=histories, header={"context": {"position": None}})


def ranked(**settings: Any) -> list[int]:
    base = {"retriever": "random", "ranker": "logistic_regression", "inputs": (), "settings": {}}
    model = train("ranker", base | settings, Training(), clicked_log(), Run(0))
    scores = model.score(Queries.anonymous(Events.of([[]])))[0]
    assert len(set(scores.tolist())) == N_ITEMS
    return np.argsort(scores).tolist()  # type: ignore[no-any-return]


def test_the_ranker_recovers_the_order_from_a_log_with_positions() -> None:
    truth = list(range(N_ITEMS))
    weighted = ranked(position="position", propensities=tuple(PROPENSITIES.tolist()))
    assert np.corrcoef(weighted, truth)[0, 1] > 0.8
    assert np.corrcoef(ranked(), truth)[0, 1] < 0.5
