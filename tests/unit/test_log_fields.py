"""Inputs of pairs of queries and items, which are looked up in encoded tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call

import segue
from segue.core.examples.fields import MISSING, N_RESERVED, UNKNOWN, Examples, Field
from segue.core.examples.log_fields import HISTORY, LogFields, log_fields, log_schema
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Queries
from segue.testing import dataset

INPUTS = ("item_features", "user_features", "history")
N_USERS, N_ITEMS, MAX_HISTORY = 6, 5, 3


def log() -> Dataset:
    """Users and items with features of all kinds, some of which are missing."""

    def table(count: int) -> pl.LazyFrame:
        columns: dict[str, Any] = {
            "group": [None if code == 1 else f"group {code % 2}" for code in range(count)],
            "tags": [[f"tag {tag}" for tag in range(code % 3)] for code in range(count)],
            "size": [None if code == 2 else code / 7 for code in range(count)],
            "vector": [[code / 3, 1.0] for code in range(count)],
        }
        return pl.DataFrame(columns).lazy()

    data = dataset(Events.of([[0, 1], [1, 2, 3, 0, 1], [], [2], [3, 3], [0]]), N_ITEMS)
    users, items = table(N_USERS), table(N_ITEMS)
    return replace(
        data,
        user_features=users.with_columns(id=pl.Series(data.users.ids.to_list())),
        item_features=items.with_columns(id=pl.Series(data.items.ids.to_list())),
    )


def tables(more: tuple[Field, ...] = ()) -> LogFields:
    data = log()
    schema = log_schema(data, INPUTS)
    return LogFields.of(data, schema, (*log_fields(schema, True), *more), MAX_HISTORY)


def queries() -> Queries:
    """The fourth user is unknown."""
    rows = [[0, 1], [1, 2, 3, 0, 1], [], [2], [3, 3], [0]]
    return Queries(Events.of(rows), np.arange(N_USERS, dtype=np.int32), np.arange(N_USERS) != 3)


def assert_equal(found: Examples, expected: Examples) -> None:
    np.testing.assert_array_equal(found.codes, expected.codes)
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    for name, lists in expected.lists.items():
        np.testing.assert_array_equal(found.lists[name].offsets, lists.offsets)
        np.testing.assert_array_equal(found.lists[name].items, lists.items)
    for name, vectors in expected.vectors.items():
        np.testing.assert_array_equal(found.vectors[name], vectors)


def test_pairs_in_any_order_have_the_inputs_of_each_pair_alone() -> None:
    rows, items = np.array([4, 0, 3, 0, 1, 5, 2]), np.array([0, 1, 2, 3, 4, 0, 1], np.int32)
    found, asked = tables().of_pairs(queries(), rows, items), queries()
    for at, (row, item) in enumerate(zip(rows.tolist(), items, strict=True)):
        alone = asked.take(np.array([row]))
        assert_equal(found.take(np.array([at])), tables().of_pairs(alone, np.zeros(1, np.int64), np.array([item])))


def test_a_pair_has_the_encoded_features_of_its_user_and_item() -> None:
    found, own = tables().of_pairs(queries(), np.arange(N_USERS), np.arange(N_USERS, dtype=np.int32) % 5), tables()
    features = own.schema.user_features
    ends = np.cumsum([one.size for one in features]).tolist()
    starts = {one.name: end - one.size for one, end in zip(features, ends, strict=True)}
    groups = own.user_features[:, starts["group"]]
    is_known = queries().known
    expected = np.where(is_known, np.nan_to_num(groups + N_RESERVED, nan=MISSING), MISSING)
    np.testing.assert_array_equal(found.codes[:, 2], expected)
    numbers = np.where(is_known, own.user_features[:, starts["size"]], np.nan)
    np.testing.assert_array_equal(found.numbers[:, 0], numbers.astype(np.float32))
    assert found.lists["user.tags"].lengths.tolist() == [0, 1, 2, 0, 1, 2]
    assert np.isnan(found.vectors["user.vector"]).all(1).tolist() == [False, False, False, True, False, False]
    assert found.codes[:, 0].tolist() == [2, 3, UNKNOWN, UNKNOWN, 6, 7]  # the third user has no event
    assert found.codes[:, 1].tolist() == [2, 3, 4, 5, UNKNOWN, 2]  # neither has the last item
    assert found.lists[HISTORY].rows_between(1, 2).items.tolist() == [5, 2, 3]  # the newest events


def test_a_profile_takes_the_place_of_stored_features() -> None:
    profile = log().user_features
    assert profile is not None
    given = replace(queries(), profile=profile.lazy().collect().drop("id"))
    rows, items = np.arange(N_USERS), np.zeros(N_USERS, np.int32)
    known = replace(queries(), known=np.ones(N_USERS, np.bool_))
    found, expected = tables().of_pairs(given, rows, items), tables().of_pairs(known, rows, items)
    codes = np.concatenate([found.codes[:, :1], expected.codes[:, 1:]], axis=1)  # all but the id of the user
    assert_equal(found, replace(expected, codes=codes))


def test_numbers_that_the_log_does_not_have_are_missing() -> None:
    more = (Field("retrieval.score", "number"), Field("retrieval.rank", "number"))
    rows, items = np.arange(N_USERS), np.zeros(N_USERS, np.int32)
    found, plain = tables(more).of_pairs(queries(), rows, items), tables().of_pairs(queries(), rows, items)
    assert_equal(found, plain.with_numbers([one.name for one in more], np.full((N_USERS, 2), np.nan, np.float32)))


def shop() -> Dataset:
    """Users who view several items and buy one."""
    data = dataset(Events.of([[0, 1, 3], [1, 2, 4], [0, 2], [2, 3, 1]]), N_ITEMS)
    actions = np.array([0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0], np.uint8)
    return replace(data, histories=replace(data.histories, actions=actions), actions=("view", "buy"), target=1)


@pytest.mark.parametrize("key", ["deepfm", "gradient_boosting"])
def test_events_with_the_target_action_are_the_positive_examples(key: str) -> None:
    data, kind, rng = shop(), model_class(key), np.random.default_rng(0)
    config = kind.Config()
    model: Any = kind(config, kind.schema_for(config, data) if key == "deepfm" else data.schema)  # type: ignore[attr-defined]
    if key == "gradient_boosting":
        parts = [model._examples_of_log(data, rng)]
    else:
        model.prepare(data)
        parts = list(model.batches(data, 2, rng)[1])
    pairs = [(part.codes[:, :2] - N_RESERVED, part.labels) for part in parts]
    positive = {(int(user), int(item)) for codes, labels in pairs for user, item in codes[labels == 1]}
    assert positive == {(0, 3), (1, 4), (3, 3)}
    negative = {(int(user), int(item)) for codes, labels in pairs for user, item in codes[labels == 0]}
    weights = np.concatenate([np.ones(len(part)) if part.weights is None else part.weights for part in parts])
    assert weights.all(), "no user has had an event with all items"
    assert not negative & {(0, 0), (0, 1), (1, 1), (1, 2), (3, 2), (3, 1)}, "viewed items are no negatives"
    none = replace(data, histories=replace(data.histories, actions=np.zeros(11, np.uint8)))
    with pytest.raises(
        ValueError, match="target: no training event of 'world' has the action 'buy', expected at least"
    ):
        list(model.batches(none, 2, rng)) if key == "deepfm" else model._examples_of_log(none, rng)


@pytest.mark.parametrize("key", ["deepfm", "gradient_boosting"])
def test_a_target_is_learned_in_python_and_on_the_command_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Most views are of items that are never bought."""
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    rows = [
        (f"u{user}", f"{action}{(user + at) % 4}", at, action)
        for user in range(80)
        for at, action in enumerate(["view", "view", "view", "buy", "buy", "view", "buy", "buy"])
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "action"], orient="row")
    log.write_csv(tmp_path / "log.csv")
    settings = {"epochs": 20, "batch_size": 32} if key == "deepfm" else {"iterations": 20, "min_examples": 5}
    options = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    run = tmp_path / "run"
    command = ["train", key, "--data", str(tmp_path / "log.csv"), "--target", "buy", "--out", str(run), "--seed", "0"]
    assert call(capsys, *command, *options)[0] == 0
    trained = segue.train(key, segue.load(log, target="buy"), seed=0, **settings)
    for model in (trained, segue.open(run)):
        items = segue.recommend(model, histories=[[]], k=4)["item_id"].to_list()
        assert sorted(items) == ["buy0", "buy1", "buy2", "buy3"]
