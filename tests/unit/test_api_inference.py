"""Arguments of the functions that use a model: every kind of id list, and errors that say what was expected."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning
from segue.core.types import Split

RNG = np.random.default_rng(1)
LOG = pl.DataFrame(
    {
        "user_id": np.repeat(np.arange(30) + 100, 8),
        "item_id": np.concatenate([RNG.permutation(20)[:8] for _ in range(30)]) * 10 + 10,
        "rating": RNG.integers(1, 6, 240).astype(np.float32),
        "timestamp": np.arange(240),
    }
)
ITEMS = pl.DataFrame({"item_id": np.arange(10, 210, 10), "year": 1980 + np.arange(20)})
USERS = pl.DataFrame({"user_id": np.arange(30) + 100, "age": 20 + np.arange(30)})
IDS = [10, 20, 30, 40]


@pytest.fixture(scope="module")
def split() -> Split:
    return segue.split(segue.load(LOG, items=ITEMS, users=USERS))


@pytest.fixture(scope="module")
def model(split: Split) -> TrainedModel:
    return segue.train("ease", split, l2=5)


@pytest.fixture(scope="module")
def rater() -> TrainedModel:
    return segue.train("als", LOG, embedding_dim=2)


@pytest.mark.parametrize(
    "ids",
    [
        IDS,
        tuple(IDS),
        set(IDS),
        np.array(IDS),
        pl.Series(IDS),
        pd.Series(IDS),
        pd.Index(IDS),
        pl.DataFrame({"item_id": IDS, "score": [1, 2, 3, 4]}),
        pd.DataFrame({"score": [1, 2, 3, 4], "item_id": IDS}),
        pd.DataFrame({"film": IDS}),
        pl.LazyFrame({"film": IDS}),
    ],
)
def test_item_ids_come_in_any_container(model: TrainedModel, ids: Any) -> None:
    actual = segue.recommend(model, 100, k=20, allow=ids, exclude_seen=False)
    assert sorted(actual["item_id"].to_list()) == IDS
    actual = segue.recommend(model, 100, k=20, deny=ids, exclude_seen=False)
    assert not set(actual["item_id"].to_list()) & set(IDS)
    actual = segue.recommend(model, 100, k=20, deny={100: ids}, exclude_seen=False)
    assert not set(actual["item_id"].to_list()) & set(IDS)
    assert sorted(segue.rank(model, 100, items=ids)["item_id"].to_list()) == IDS


def test_one_id_is_a_list_of_one(model: TrainedModel) -> None:
    for item in (10, "10", np.int64(10), np.array(10), np.array("10")):
        assert segue.recommend(model, 100, allow=item, exclude_seen=False)["item_id"].to_list() == [10]


def test_constraints_of_absent_users_are_reported(model: TrainedModel) -> None:
    with pytest.warns(SegueWarning, match="deny=: users for whom nothing is recommended: '99'") as caught:
        segue.recommend(model, 100, k=2, deny={99: [10]})
    assert len(caught) == 1
    with pytest.warns(SegueWarning, match="allow=: queries for which nothing is recommended: '2'"):
        segue.recommend(model, histories=[[10]], k=2, allow={0: [20, 30], 2: [10]})


def test_user_features_alone_describe_a_new_user(model: TrainedModel) -> None:
    with pytest.warns(SegueWarning, match="makes no use of these user features"):
        actual = segue.recommend(model, user_features={"age": 25}, k=3)
    assert actual["query"].to_list() == [0, 0, 0]
    assert actual["item_id"].to_list() == segue.recommend(model, histories=[[]], k=3)["item_id"].to_list()
    with pytest.warns(SegueWarning):
        assert segue.recommend(model, user_features=pd.DataFrame({"age": [25, 30]}), k=1)["query"].to_list() == [0, 1]


def test_lists_of_the_model_have_its_metrics(model: TrainedModel, split: Split) -> None:
    names = ["ndcg@10", "recall@5", "map@10", "mrr@10"]
    expected = segue.evaluate(model, split, metrics=names)
    lists = segue.recommend(model, split.test, k=10)
    assert lists["user_id"].dtype == pl.Int64
    actual = segue.evaluate(lists, split, metrics=names)
    for name in names:
        assert actual[name].mean == pytest.approx(expected[name].mean)
        assert actual.values[name] == pytest.approx(expected.values[name])
    assert lists.equals(segue.recommend(model, split.test.queries, k=10))
    several = segue.recommend(model, split.test.queries.take(np.array([0, 0, 1])), k=1)
    assert several["query"].to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 2.5}, "k=: got 2.5, expected an integer of at least 1"),
        ({"k": True}, "k=: got True, expected an integer of at least 1"),
        ({"allow": ITEMS.rename({"item_id": "film"})}, "allow=: got a frame with the columns film, year, expected"),
        ({"deny": [[10, 20]]}, "deny=: got [10, 20] of type list, expected text or an integer"),
        ({"deny": b"10"}, "deny=: got bytes, expected an id or a list of ids"),
        ({"allow": [True]}, "allow=: got True of type bool"),
        ({"filter": {"year": None}}, "filter=: year: got None, expected a value"),
        ({"filter": {"year": []}}, "filter=: year: got [], expected a value"),
        ({"filter": "year"}, "filter=: got 'year', expected a mapping"),
        ({"filter": {"year": {"mim": 1990}}}, "filter=: year.mim: unknown, did you mean 'min'?"),
        ({"rules": '{"diversify": 0.3}'}, 'expected a mapping such as {"diversify": 0.3}'),
        ({"rules": {"diversity": 0.3}}, "rules=: diversity: unknown, did you mean 'diversify'?"),
        ({"rules": {"pins": [{"item": 10, "place": 1}]}}, "rules=: pins.0.place: unknown"),
        ({"rules": {"pins": [10]}}, "rules=: pins.0: got 10"),
        ({"rules": {"boosts": [{"factor": 2, "filters": {}}]}}, "boosts.0.filters: unknown, did you mean 'filter'?"),
    ],
)
def test_faulty_arguments_are_explained(model: TrainedModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        segue.recommend(model, 100, **arguments)


@pytest.mark.parametrize("k", [0, -1, 2.5])
def test_k_is_checked_everywhere(model: TrainedModel, k: Any) -> None:
    message = re.escape(f"k=: got {k}, expected an integer of at least 1")
    for call in (
        lambda: segue.similar(model, 10, k=k),
        lambda: segue.similar(model, user=100, k=k, measure="cosine"),
        lambda: segue.explain(model, 100, item=10, k=k),
        lambda: segue.recommend(model, 100, k=k),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_errors_name_what_was_given(model: TrainedModel, split: Split) -> None:
    with pytest.raises(ValueError, match="shrink=: got -1, expected a number of at least 0"):
        segue.similar(model, 10, measure="cosine", shrink=-1)
    with pytest.raises(ValueError, match="got user and history=, expected one of user, history= and titles="):
        segue.rank(model, 100, history=[10], items=[20])
    with pytest.raises(ValueError, match="got user and history=, expected one of"):
        segue.explain(model, 100, history=[10], item=20)
    with pytest.raises(ValueError, match="items=: got no items, expected at least one"):
        segue.rank(model, 100, items=[])
    with pytest.raises(ValueError, match="items=: none of the items is in the catalog: '7'"):
        segue.rank(model, 100, items=[7])
    with pytest.raises(ValueError, match="model: got None, expected a trained model"):
        segue.recommend(None, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="users=: got a Split, expected user ids, a table, or queries"):
        segue.recommend(model, split)
    with pytest.raises(ValueError, match="port: got 99999, expected an integer from 0 to 65535"):
        segue.serve(model, port=99_999)


def test_predictions_of_unknown_pairs(rater: TrainedModel) -> None:
    with pytest.warns(SegueWarning):
        actual = segue.predict(rater, [(7, 7), (7, 10)])
    assert actual["prediction"].is_null().to_list() == [True, False]
    assert actual["notes"].to_list() == [
        "unknown user and unknown item: no prediction",
        "unknown user: predicted as for a new user",
    ]


def test_predictions_keep_types_and_index(rater: TrainedModel) -> None:
    for pairs in ([], pl.DataFrame({"user_id": [], "item_id": []}), LOG.head(0)):
        actual = segue.predict(rater, pairs)
        assert len(actual) == 0
        assert (actual["user_id"].dtype, actual["item_id"].dtype) == (pl.Int64, pl.Int64)
    empty = segue.predict(rater, pd.DataFrame(columns=["user_id", "item_id"], dtype=float))
    assert (empty["user_id"].dtype, empty["item_id"].dtype) == (np.int64, np.int64)
    pairs = pd.DataFrame({"user_id": [100, 101], "item_id": [10, 20]}, index=["a", "b"])
    assert segue.predict(rater, pairs).index.tolist() == ["a", "b"]
