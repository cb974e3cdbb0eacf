"""Items with features but no events are in the catalog, and only models that read features score them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
import segue.core.recommend
from segue.core.messages import SegueWarning
from segue.core.types import Dataset, Events, HeldOut, Queries
from segue.data import Filters, load, open_dataset
from segue.evaluation.ranking import rank
from segue.evaluation.sampled import rank_sampled

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


@pytest.mark.parametrize("name", ["popular", "ease", "als", "ials", "bpr", "gru4rec"])
def test_rank_and_sampled_metrics_treat_items_without_events_as_recommendations_do(name: str, data: Dataset) -> None:
    settings: dict[str, Any] = {"epochs": 1} if name == "gru4rec" else {}
    trained = segue.train(name, data, **settings)
    with pytest.warns(SegueWarning, match="items without events in training, which are ranked last: 'new1', 'new2'"):
        table = segue.rank(trained, history=["i1", "i2"], items=["new1", "i3", "new2", "i4"])
    assert table["item_id"].to_list()[2:] == NEW
    listed = segue.recommend(trained, histories=[["i1", "i2"]], k=12)
    scores = dict(zip(listed["item_id"], listed["score"], strict=True))
    assert table["score"].to_list() == pytest.approx([scores[item] for item in table["item_id"]])
    queries = Queries.anonymous(Events.of([[1, 2], [3], [0, 1]]))
    held_out = HeldOut(queries, Events.of([[10], [11], [5]]))
    full, sampled = rank(trained.model, held_out, 5, True), rank_sampled(trained.model, held_out, 9)
    assert sampled.n_higher[:2].tolist() == [8, 8], "all but the other item without events are above the target"
    assert sampled.n_tied[:2].tolist() == [1, 1]
    assert full.n_tied[:2].tolist() == [1, 1]


@pytest.mark.parametrize("name", ["item_knn", "ials", "gru4rec"])
def test_items_without_events_are_similar_to_nothing_for_models_without_features(name: str, data: Dataset) -> None:
    settings: dict[str, Any] = {"epochs": 1} if name == "gru4rec" else {}
    trained = segue.train(name, data, **settings)
    assert set(NEW).isdisjoint(segue.similar(trained, "i1", k=12)["item_id"])
    with pytest.raises(
        ValueError, match=rf"item=: 'new1' has no events in training and '{name}' reads no item features"
    ):
        segue.similar(trained, "new1")


def test_items_without_events_are_similar_by_their_features(data: Dataset) -> None:
    trained = segue.train("gru4rec", data, inputs=["item_features"], epochs=1)
    assert len(segue.similar(trained, "new1", k=12)) == 11
    assert set(NEW) <= set(segue.similar(trained, "i1", k=12)["item_id"])


@pytest.mark.parametrize("name", ["als", "svdpp"])
def test_ratings_of_items_without_events_are_not_predicted(name: str, data: Dataset) -> None:
    trained = segue.train(name, data)
    with pytest.warns(SegueWarning, match="items not in training: 'new1'"):
        table = segue.predict(trained, [("u1", "i1"), ("u1", "new1"), ("u99", "new1")])
    assert table["prediction"].is_null().to_list() == [False, True, True]
    assert table["notes"].to_list() == [None, *["item without events in training: no prediction"] * 2]
    featured = segue.train("als", data, item_features=True)
    assert segue.predict(featured, [("u1", "new1")])["prediction"].is_null().to_list() == [False]


def test_an_explanation_says_that_an_item_has_no_events(data: Dataset) -> None:
    found = segue.explain(segue.train("ials", data), history=["i1", "i2"], item="new1")
    assert len(found.attributions) == 0
    assert any("no events in training" in reason for reason in found.reasons)


def test_triples_score_items_without_events() -> None:
    log, items = log_and_items()
    triples = pl.DataFrame({"head": ["i1", "i2", NEW[0]], "relation": ["maker"] * 3, "tail": ["m"] * 3})
    model = segue.train("cease", load(log, items=items, triples=triples), l2=1.0)
    assert model.model.schema.n_unscored == 0
    assert NEW[0] in ranking(model)[:8]
