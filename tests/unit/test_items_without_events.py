"""Items with features but no events are in the catalog, and only models that read features score them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
import segue.core.recommend
from segue.core.types import Dataset, Events, Queries
from segue.data import Filters, load, open_dataset

NEW = ["new1", "new2"]


def log_and_items() -> tuple[pl.DataFrame, pl.DataFrame]:
    rng = np.random.default_rng(0)
    items = [f"i{n}" for n in range(10)]
    rows = [(f"u{user}", items[code]) for user in range(20) for code in rng.permutation(10)[:6]]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    log = log.with_columns(rating=pl.Series(rng.integers(1, 6, len(log)).astype(float)))
    genres = ["a" if n % 2 else "b" for n in range(10)]
    return log, pl.DataFrame({"item_id": [*items, *NEW], "genre": [*genres, "a", "b"]})


@pytest.fixture(scope="module")
def data() -> Dataset:
    log, items = log_and_items()
    return load(log, items=items)


def ranking(model: Any) -> list[str]:
    found: list[str] = segue.recommend(model, histories=[["i1", "i2"]], k=12)["item_id"].to_list()
    return found


def test_items_without_events_are_in_the_catalog_with_their_features(data: Dataset, tmp_path: Path) -> None:
    log, items = log_and_items()
    assert data.items.ids.to_list()[-2:] == NEW
    assert data.schema.n_without_events == 2
    prepared = load(log, items=items, out=tmp_path / "out")
    assert open_dataset(tmp_path / "out").header["hash"] == prepared.header["hash"] == data.header["hash"]
    assert prepared.item_features is not None
    assert prepared.item_features.collect()["genre"].to_list()[-2:] == ["a", "b"]
    filtered = load(log, items=items, filters=Filters(min_item_events=12))
    assert 2 < filtered.n_items < 12, "items removed by a filter are not added again"
    assert filtered.items.ids.to_list()[-2:] == NEW


@pytest.mark.parametrize(
    ("name", "settings"),
    [("popular", {}), ("ease", {}), ("item_knn", {}), ("als", {}), ("ials", {}), ("gru4rec", {"epochs": 1})],
)
def test_models_without_features_rank_items_without_events_last(
    name: str, settings: dict[str, Any], data: Dataset, tmp_path: Path
) -> None:
    model = segue.train(name, data, **settings)
    ranked = ranking(model)
    assert set(NEW).isdisjoint(ranked[:8])
    segue.save(model, tmp_path / "model")
    assert ranking(tmp_path / "model") == ranked


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gru4rec", {"inputs": ["item_features"], "epochs": 1}), ("als", {"item_features": True})],
)
def test_models_with_features_score_items_without_events(name: str, settings: dict[str, Any], data: Dataset) -> None:
    model = segue.train(name, data, **settings).model
    assert model.schema.item_features or not model.schema.n_without_events
    queries = Queries.anonymous(Events.of([[1, 2]]))
    found = segue.core.recommend.recommend(model, queries, 12)
    order = np.argsort(-model.score(queries)[0], kind="stable")
    assert found.items[0][: found.lengths[0]].tolist() == [item for item in order.tolist() if item not in (1, 2)]
