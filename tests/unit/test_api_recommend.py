"""Recommendations from Python: ids, tables, constraints and blocks, on logs with known results."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import SegueWarning
from segue.core.types import Queries

RNG = np.random.default_rng(0)
LOG = pl.DataFrame(
    {
        "user_id": np.repeat(np.arange(40) + 100, 8),
        "item_id": np.concatenate([RNG.permutation(30)[:8] for _ in range(40)]) * 10 + 10,
        "rating": RNG.integers(1, 6, 320).astype(np.float32),
        "timestamp": np.arange(320),
    }
)
GENRES = ["Comedy", "Drama", "War"]
ITEMS = pl.DataFrame(
    {
        "item_id": np.arange(10, 310, 10),
        "title": [f"Film {number}" for number in range(30)],
        "genres": [[GENRES[number % 3]] for number in range(30)],
        "year": [1980 + number for number in range(30)],
    }
)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return segue.train("ease", segue.load(LOG, items=ITEMS), l2=5)


@pytest.fixture(scope="module")
def logits() -> TrainedModel:
    return segue.train("popular", segue.load(LOG, items=ITEMS))


def lists(table: Any) -> dict[Any, list[Any]]:
    items: dict[Any, list[Any]] = {}
    for user, item in zip(table["user_id"].to_list(), table["item_id"].to_list(), strict=True):
        items.setdefault(user, []).append(item)
    return items


def test_the_table(model: TrainedModel, logits: TrainedModel) -> None:
    table = segue.recommend(model, 100, k=3)
    assert table.columns == ["user_id", "item_id", "rank", "score", "probability", "title", "genres", "notes"]
    assert table["rank"].to_list() == [1, 2, 3]
    assert table["score"].is_sorted(descending=True)
    assert table["probability"].null_count() == 3
    assert table["notes"].null_count() == 3
    assert segue.recommend(logits, 100, k=3)["probability"].is_between(0, 1).all()


@pytest.mark.parametrize("kind", ["int64", "int32", "uint64", "uint8", "string"])
@pytest.mark.parametrize("stored", [False, True])
def test_ids_keep_their_type(kind: str, stored: bool, tmp_path: Path) -> None:
    dtype: Any = pl.String if kind == "string" else getattr(pl, kind.replace("int", "Int").replace("uI", "UI"))
    log: Any = LOG.with_columns(pl.col("user_id").cast(dtype), (pl.col("item_id") // 10).cast(dtype))
    if stored:
        log.write_parquet(tmp_path / "log.parquet")
        log = tmp_path / "log.parquet"
    data = segue.load(log)
    trained = segue.train("popular", segue.split(data))
    segue.save(trained, tmp_path / "model")
    for actual in (trained, segue.open(tmp_path / "model")):
        table = segue.recommend(actual, k=2)
        assert (table["user_id"].dtype, table["item_id"].dtype) == (dtype, dtype)
        for user in (101, "101"):
            one = segue.recommend(actual, user, k=2)
            assert one["user_id"].dtype == dtype
            assert (
                one["item_id"].to_list()
                == table.filter(pl.col("user_id").cast(pl.String) == "101")["item_id"].to_list()
            )
        assert segue.similar(segue.train("ease", data), 1, k=2)["item_id"].dtype == dtype


def test_csv_ids_stay_text(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "log.csv")
    table = segue.recommend(segue.train("popular", tmp_path / "log.csv"), 100, k=2)
    assert (table["user_id"].dtype, table["item_id"].dtype) == (pl.String, pl.String)


def test_ids_survive_filtering_and_preparation(tmp_path: Path) -> None:
    from segue.data import load

    prepared = load(LOG, out=tmp_path / "ready")
    assert (prepared.users.id_type, prepared.items.id_type) == ("int64", "int64")
    assert segue.load(tmp_path / "ready").items.id_type == "int64"


def test_pandas_in_pandas_out(model: TrainedModel) -> None:
    expected = segue.recommend(model, [100, 101], k=3)
    for users in (pd.DataFrame({"user_id": [100, 101]}), pd.Series([100, 101])):
        table = segue.recommend(model, users, k=3)
        assert isinstance(table, pd.DataFrame)
        assert table["item_id"].dtype == np.int64
        assert table["item_id"].tolist() == expected["item_id"].to_list()
    for users in (
        [100, 101],
        (101, 100),
        np.array([100, 101]),
        pl.Series([100, 101]),
        pl.DataFrame({"user_id": [100, 101]}),
    ):
        table = segue.recommend(model, users, k=3)
        assert isinstance(table, pl.DataFrame)
        assert lists(table) == lists(expected)


def test_all_users_are_single_users(model: TrainedModel) -> None:
    together = lists(segue.recommend(model, k=4))
    assert len(together) == 40
    for user in (100, 117, 139):
        assert lists(segue.recommend(model, user, k=4)) == {user: together[user]}
    seen = dict(LOG.group_by("user_id").agg("item_id").iter_rows())
    assert not any(set(items) & set(seen[user]) for user, items in together.items())
    repeated = lists(segue.recommend(model, k=30, exclude_seen=False))
    assert all(len(items) == 30 for items in repeated.values())


def test_blocks_do_not_change_the_result(model: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.core import recommend

    deny = {user: [10, 20, 30] for user in range(100, 140, 2)}
    allow = {user: list(range(40, 200, 10)) for user in range(100, 140, 3)}
    whole = segue.recommend(model, k=5, deny=deny, allow=allow)
    monkeypatch.setattr(recommend, "BLOCK_SCORES", 90)
    monkeypatch.setattr(recommend, "CACHE_SCORES", 60)
    monkeypatch.setattr(recommend, "MIN_ROWS", 2)
    blocked = segue.recommend(model, k=5, deny=deny, allow=allow)
    assert lists(whole) == lists(blocked)
    for user, items in lists(whole).items():
        assert user % 2 or not set(items) & {10, 20, 30}
        assert (user - 100) % 3 or set(items) <= set(range(40, 200, 10))


def test_allow_and_deny(model: TrainedModel) -> None:
    allowed = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]
    table = segue.recommend(model, [100, 101], k=3, allow=allowed, deny=pd.Series([10, "20"]))
    assert set(table["item_id"]) <= set(allowed) - {10, 20}
    with pytest.warns(SegueWarning, match="allow=: items not in the catalog: '999'"):
        segue.recommend(model, 100, allow=[10, 20, 999])
    per_user = segue.recommend(model, [100, 101], k=40, allow={"100": [10, 20, 30]}, exclude_seen=False)
    assert {user: len(items) for user, items in lists(per_user).items()} == {100: 3, 101: 30}
    assert per_user["notes"][0] == "only 3 items were left to recommend"
    by_query = segue.recommend(model, histories=[[10], [20]], k=2, deny={1: [30]})
    assert 30 not in by_query.filter(pl.col("query") == 1)["item_id"].to_list()


@pytest.mark.parametrize(
    ("conditions", "meets"),
    [
        ({"genres": "War"}, lambda row: row["genres"] == ["War"]),
        ({"genres": ["War", "Drama"]}, lambda row: row["genres"] != ["Comedy"]),
        (
            {"genres": {"none": ["War"]}, "year": {"min": 1990, "max": 1999}},
            lambda row: 10 <= row["item_id"] // 10 - 1 < 20,
        ),
        ({"year": 1985}, lambda row: row["item_id"] == 60),
    ],
)
def test_filter(model: TrainedModel, conditions: dict[str, Any], meets: Callable[[Any], bool]) -> None:
    rows = segue.recommend(model, k=5, filter=conditions, exclude_seen=False).to_dicts()
    assert rows
    assert all(meets(row) for row in rows)


def test_rules_match_the_service(model: TrainedModel, logits: TrainedModel, tmp_path: Path) -> None:
    rules = {
        "boosts": [{"filter": {"genres": {"any": ["War"]}}, "factor": 3.0}],
        "max_per_value": {"genres": 2},
        "pins": [{"item": 70, "position": 2}],
        "diversify": 0.2,
    }
    for trained in (model, logits):
        table = segue.recommend(trained, [100, 101], k=5, rules=rules, filter={"year": {"min": 1985}})
        for user, items in lists(table).items():
            assert items[1] == 70
            assert items == _recommend_by_service(trained, tmp_path / trained.key, str(user), 5, rules)
        genres = table.filter((pl.col("user_id") == 100) & (pl.col("item_id") != 70))["genres"]
        assert genres.explode().value_counts()["count"].max() <= 2


def _recommend_by_service(trained: TrainedModel, folder: Path, user: str, k: int, rules: dict[str, Any]) -> list[int]:
    """Return the recommendations of the service for the same user and rules."""
    from segue.serving import schemas
    from segue.serving.catalog.catalog import Catalog
    from segue.serving.ranking import rank_batch
    from segue.serving.rules.compile import compile_rules

    catalog = Catalog(trained, np.zeros(len(trained.items), np.float32))
    pins = [{**pin, "item": str(pin["item"])} for pin in rules["pins"]]
    request = schemas.RecommendRequest.model_validate(
        {"user": user, "k": k, **rules, "pins": pins, "filter": {"year": {"min": 1985}}}
    )
    codes, known = trained.users.encode([user])
    queries = Queries(trained.log.histories.take(codes), codes, known)
    compiled = compile_rules(request, schemas.Rules(), catalog)
    (actual,) = rank_batch.rank_batch(trained.model, queries, [request], [compiled], catalog)
    return [int(item) for item in trained.items.decode(actual.codes)]


def test_unknown_users_and_items_are_reported(model: TrainedModel) -> None:
    with pytest.warns(SegueWarning, match="users not in the log of table: '7'") as caught:
        table = segue.recommend(model, [100, 7], k=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert table["notes"].null_count() == 2
    assert str(table.filter(pl.col("user_id") == 7)["notes"][0]).startswith("unknown user")
    assert table["user_id"].dtype == pl.Int64
    with pytest.warns(SegueWarning):
        assert segue.recommend(model, [100, "abc"], k=1)["user_id"].to_list() == ["100", "abc"]
    with pytest.warns(SegueWarning, match="items not in the catalog: '999'"):
        table = segue.recommend(model, histories=[[10, 999], [20]], k=1)
    assert table["notes"].to_list() == ["items not in the catalog: '999'", None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segue.recommend(model, [100, 101], k=2)


def test_histories(model: TrainedModel) -> None:
    table = segue.recommend(model, histories=[[10, "20", 30], []], k=2)
    assert table["query"].to_list() == [0, 0, 1, 1]
    named = segue.recommend(model, histories={100: [10, 20, 30], 5: []}, k=2)
    assert named["item_id"].to_list() == table["item_id"].to_list()
    assert named["user_id"].to_list() == [100, 100, 5, 5]
    assert (
        segue.recommend(model, titles=["film 0", "FILM 1", "Film 2"], k=2)["item_id"].to_list()
        == table["item_id"][:2].to_list()
    )
    frame = pd.DataFrame({"user_id": [1, 1, 1, 2], "item_id": [10, 20, 30, 10]})
    by_frame = segue.recommend(model, frame, k=2)
    assert isinstance(by_frame, pd.DataFrame)
    assert by_frame["user_id"].tolist() == [1, 1, 2, 2]
    assert by_frame["item_id"].tolist()[:2] == table["item_id"].to_list()[:2]


def test_another_log_may_have_other_items(model: TrainedModel) -> None:
    other = segue.load(pl.DataFrame({"user_id": [100, 100, 8], "item_id": [300, 5, 10]}))
    with pytest.warns(SegueWarning, match="items not in the catalog: '5'"):
        table = segue.recommend(model, [100, 8], k=3, data=other)
    assert lists(table)[100] == segue.recommend(model, histories=[[300]], k=3)["item_id"].to_list()
    assert "'5'" in str(table["notes"][0])


def test_saved_models_store_the_log(model: TrainedModel, tmp_path: Path) -> None:
    segue.save(model, tmp_path / "model")
    assert {path.suffix for path in (tmp_path / "model").iterdir()} == {".json", ".parquet", ".safetensors"}
    opened = segue.open(tmp_path / "model")
    assert segue.recommend(opened).equals(segue.recommend(model))
    assert segue.recommend(str(tmp_path / "model"), 100).equals(segue.recommend(model, 100))
    assert repr(opened) == repr(model) == "TrainedModel('ease', l2=5.0, data='table', 40 users, 30 items)"
    assert opened.log.histories.values is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 100, "histories": [[10]]}, "got users= and histories=, expected one of them"),
        ({"histories": [10, 20]}, "expected a list of lists"),
        ({"users": pl.DataFrame({"user": [1]})}, "without a column 'user_id', did you mean|without a column 'user_id'"),
        ({"users": [None]}, "users=: got a missing id"),
        ({"users": 100, "k": 0}, "k=: got 0, expected an integer of at least 1"),
        ({"users": 100, "filter": {"genre": "War"}}, "filter=: unknown feature 'genre', did you mean 'genres'"),
        ({"users": 100, "filter": {"year": "new"}}, "filter=: year: got 'new'"),
        ({"users": 100, "rules": {"diversity": 1}}, "rules=: diversity"),
        ({"users": 100, "user_features": {"age": 3}}, "user_features=: apply to new users"),
        ({"histories": [[10]], "user_features": {"age": 3}}, "the data has no user features"),
        ({"titles": ["no such film"]}, "no item is called 'no such film'"),
    ],
)
def test_invalid_arguments_are_named(model: TrainedModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segue.recommend(model, **arguments)


def test_without_a_log_histories_still_work(model: TrainedModel, tmp_path: Path) -> None:
    from segue.core import bundle

    bundle.save(tmp_path / "bare", model)
    bare = segue.open(tmp_path / "bare")
    assert len(segue.recommend(bare, histories=[[10]], k=3)) == 3
    with pytest.raises(ValueError, match="stored without its interaction log"):
        segue.recommend(bare, 100)
