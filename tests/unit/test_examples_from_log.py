"""Labeled examples that are derived from an interaction log: labels, features and histories as of the event."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.types import Dataset
from segue.data.examples.from_log import derive_examples

HOUR = 3_600


def log(rows: list[tuple[Any, ...]], names: tuple[str, ...], **options: Any) -> Dataset:
    return segue.load(pl.DataFrame(rows, schema=names, orient="row"), **options)


@pytest.fixture
def ratings() -> Dataset:
    rows = [
        ("u", "a", 5.0, 1 * HOUR), ("u", "b", 2.0, 2 * HOUR), ("u", "c", 4.0, 3 * HOUR), ("u", "d", 4.5, 3 * HOUR),
        ("u", "e", 1.0, 4 * HOUR), ("v", "a", 4.0, 1 * HOUR), ("v", "c", None, 2 * HOUR), ("v", "e", 3.0, 3 * HOUR),
    ]  # fmt: skip
    items = pl.DataFrame({"item_id": list("abcde"), "genre": ["x", "x", "y", None, "z"]})
    users = pl.DataFrame({"user_id": ["u", "v"], "age": [20.5, None]})
    return log(rows, ("user_id", "item_id", "rating", "timestamp"), items=items, users=users)


def test_ratings_above_a_threshold(ratings: Dataset) -> None:
    table = derive_examples(ratings, threshold=3.5)
    assert table.notes == ("1 of 8 events have no value and are no examples",)
    frame = table.frame
    assert frame["user"].to_list() == list("uuuuuvv")
    assert frame["item"].to_list() == list("abcdeae")
    assert frame["label"].to_list() == [1, 0, 1, 1, 0, 1, 0]
    assert frame["item.genre"].to_list() == ["x", "x", "y", None, "z", "x", "z"]
    assert frame["user.age"].to_list() == [20.5] * 5 + [None] * 2
    assert frame["time"].dt.hour().to_list() == [1, 2, 3, 3, 4, 1, 3]


def test_a_history_has_no_event_of_the_same_time_or_later(ratings: Dataset) -> None:
    histories = derive_examples(ratings, threshold=3.5).frame["history"].to_list()
    assert histories == [[], ["a"], ["a"], ["a"], ["a", "c", "d"], [], ["a"]]
    assert derive_examples(ratings, threshold=3.5, history=1).frame["history"].to_list()[4] == ["d"]
    assert "history" not in derive_examples(ratings, threshold=3.5, history=0).columns


def test_a_history_without_times_has_the_events_before() -> None:
    data = log([("u", "a", 5), ("u", "b", 1), ("u", "c", 5), ("v", "a", 1)], ("user_id", "item_id", "rating"))
    table = derive_examples(data, threshold=3)
    assert table.frame["history"].to_list() == [[], ["a"], ["a"], []]
    assert "time" not in table.columns


def test_impressions_with_clicks() -> None:
    rows = [
        ("u", "a", "show", 1), ("u", "b", "show", 2), ("u", "a", "click", 3), ("u", "a", "show", 4),
        ("u", "c", "click", 5), ("u", "b", "show", 6), ("u", "b", "click", 7), ("u", "b", "click", 8),
        ("v", "b", "show", 1), ("v", "a", "click", 9),
    ]  # fmt: skip
    data = log(rows, ("user_id", "item_id", "action", "timestamp"))
    table = derive_examples(data, impression="show")
    found = table.frame.select("user", "item", "label", "history").rows()
    assert found == [
        ("u", "a", 1, []),
        ("u", "b", 0, []),  # the click on a came after b was shown
        ("u", "a", 0, ["a"]),
        ("u", "b", 1, ["a", "c"]),
        ("v", "b", 0, []),
    ]
    assert table.notes == ("2 of 5 clicks follow no impression of their item and are no examples",)


def test_sampled_negatives_are_items_without_an_event_until_then() -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}", step) for user in range(20) for step, item in enumerate(rng.permutation(30)[:25])]
    data = log(rows, ("user_id", "item_id", "timestamp"))
    table = derive_examples(data, negatives=3, seed=1)
    frame = table.frame
    assert frame["label"].to_list() == [1, 0, 0, 0] * len(rows)
    assert (frame["user"].to_numpy().reshape(-1, 4) == frame["user"].to_numpy()[::4, None]).all()
    times = {(user, item): time for user, item, time in rows}
    drawn = frame.filter(pl.col("label") == 0).select("user", "item", pl.col("time").dt.epoch("s")).rows()
    assert all(times.get((user, item), time + 1) > time for user, item, time in drawn)
    assert any((user, item) in times for user, item, _ in drawn)  # later events are not known yet
    again, other = (derive_examples(data, negatives=3, seed=seed).frame for seed in (1, 2))
    assert again.equals(frame)
    assert not other.equals(frame)


def test_events_at_the_same_time_are_no_negatives_of_each_other() -> None:
    """Otherwise rows with equal inputs would have both labels."""
    rows = [("u", item, 1 + (item in "ef")) for item in "abcdef"] + [("v", "g", 1)]
    data = log(rows, ("user_id", "item_id", "timestamp"))
    for seed in range(5):
        frame = derive_examples(data, negatives=2, seed=seed).frame.filter(user="u")
        first, second = (frame.filter(pl.col("time").dt.epoch("s") == time, label=0)["item"] for time in (1, 2))
        assert set(first) <= set("efg")
        assert set(second) == {"g"}


def test_a_history_may_have_any_length(ratings: Dataset) -> None:
    whole = derive_examples(ratings, threshold=3.5, history=10**30).frame
    assert whole["history"].to_list() == derive_examples(ratings, threshold=3.5).frame["history"].to_list()


def test_users_with_events_with_all_items_get_no_negatives() -> None:
    data = log([("u", "a", 1), ("u", "b", 2), ("v", "a", 1)], ("user_id", "item_id", "timestamp"))
    table = derive_examples(data, negatives=1)
    assert table.frame.select("user", "item", "label").rows() == [
        ("u", "a", 1), ("u", "b", 0), ("u", "b", 1), ("v", "a", 1), ("v", "b", 0),
    ]  # fmt: skip
    assert table.notes == ("1 negatives were left out: their users had events with nearly all items",)


def test_context_columns() -> None:
    data = log(
        [("u", "a", 5, "phone", 0.5), ("u", "b", 1, None, None), ("v", "a", 2, "desk", 1.5)],
        ("user_id", "item_id", "rating", "device", "distance"),
        columns={"context": ["device"], "context_number": ["distance"]},
    )
    frame = derive_examples(data, threshold=3).frame
    assert frame["context.device"].to_list() == ["phone", None, "desk"]
    assert frame["context.distance"].to_list() == [0.5, None, 1.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no rule: expected exactly one of threshold, impression, negatives"),
        ({"threshold": 3, "negatives": 1}, "threshold and negatives: expected exactly one of"),
        ({"threshold": 9}, "threshold: got 9, with which all 7 examples are negative"),
        ({"threshold": float("nan")}, "threshold: got nan, expected a finite number"),
        ({"impression": "show"}, "impression: got 'show', expected an action of "),
        ({"impression": "interaction"}, "has no other action than 'interaction', expected one of clicks"),
        ({"negatives": -1}, "negatives: got -1, expected 1 or more"),
        ({"negatives": 10**12}, "negatives: got 1000000000000, expected at most 5, the items of "),
        ({"threshold": 3, "history": -1}, "history: got -1, expected 0 or more"),
    ],
)
def test_errors(ratings: Dataset, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        derive_examples(ratings, **arguments)


def test_the_hash_of_the_rows_is_that_of_their_texts(ratings: Dataset) -> None:
    """Codes of categories depend on what else a process has read."""
    table = derive_examples(ratings, threshold=3.5)
    assert table.frame.schema["history"] == pl.List(pl.Categorical)
    texts = replace(table, frame=table.frame.cast({"history": pl.List(pl.String)}))
    assert texts.rows_hash == table.rows_hash


def test_a_log_without_values() -> None:
    data = log([("u", "a"), ("v", "b")], ("user_id", "item_id"))
    with pytest.raises(ValueError, match=r"threshold: got 3, but the events of .* have no values"):
        derive_examples(data, threshold=3)


def test_from_the_command_line_to_a_trained_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [f"u{user},i{rng.integers(9)},{rng.integers(1, 6)},{step}" for user in range(20) for step in range(8)]
    log, table = tmp_path / "log.csv", tmp_path / "likes.parquet"
    log.write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    found = result(capsys, "data", "examples", str(log), "--threshold", "3", "--out", str(table))
    assert found["columns"] == ["label", "user", "item", "time", "history"]
    frame = pl.read_parquet(table)
    expected = segue.derive_examples(str(log), threshold=3).frame
    assert frame.cast({"history": pl.List(pl.String)}).equals(expected.cast({"history": pl.List(pl.String)}))
    assert (found["examples"], found["positive"]) == (160, int(frame["label"].sum()))
    options = ["--split", "time", "--column", "time", "--out", str(tmp_path / "model"), "--set", "epochs=1"]
    shares = ["--set", 'shares={"history": "item"}', "--set", "hidden=[4]"]
    result(capsys, "clicks", "train", "din", "--data", str(table), *options, *shares)


def test_command_line_errors_come_before_the_log_is_read(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options, message in (
        (["--out", "x.parquet"], "no rule: expected exactly one of"),
        (["--out", "x.foo", "--negatives", "1"], "x.foo: unknown format '.foo'"),
    ):
        code, _, errors = call(capsys, "data", "examples", str(tmp_path / "missing.csv"), *options)
        assert code == 2
        assert message in errors
