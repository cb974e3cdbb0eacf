"""Splits of public datasets, and small cases with known results."""

from __future__ import annotations

import os
from datetime import date, datetime
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from segue.core.types import Dataset
from segue.data import SplitSettings, load, split, split_strategies
from segue.data.splits import folds, sliding_windows

real = pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def small(n: int = 10, users: int = 4) -> Dataset:
    rows = [(u, i, 100 * i + u) for u in range(users) for i in range(n)]
    return load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


@real
def test_100k_by_time() -> None:
    result = split(load("ml-100k"), SplitSettings(strategy="global_temporal", test=0.2, valid=0.0))
    assert result.metadata["train_users"] == 751
    assert result.metadata["test"]["queries"] == 301
    assert result.metadata["test"]["cold_users"] == 192
    assert result.metadata["test"]["empty_histories"] == 192
    assert len(result.valid) == 0


@real
@pytest.mark.parametrize(("name", "train", "test"), [("u1", 80000, 20000), ("ua", 90570, 9430), ("ub", 90570, 9430)])
def test_100k_predefined(name: str, train: int, test: int) -> None:
    result = split(load("ml-100k"), SplitSettings(strategy="predefined", name=name, valid=0.0))
    assert (result.train.histories.size, result.test.targets.size) == (train, test)
    assert result.metadata["name"] == name


@real
def test_100k_predefined_test_is_the_file() -> None:
    import zipfile

    archive = next(p for p in Path(os.environ["SEGUE_ARCHIVES"]).glob("*.zip") if p.name == "ml-100k.zip")
    with zipfile.ZipFile(archive) as file:
        lines = file.read("ml-100k/u3.test").decode().splitlines()
    data = load("ml-100k")
    result = split(data, SplitSettings(strategy="predefined", name="u3"))
    users = data.users.decode(result.test.queries.users[result.test.targets.rows])
    actual = set(zip(users, data.items.decode(result.test.targets.items), strict=True))
    assert actual == {tuple(line.split("\t")[:2]) for line in lines}


@real
def test_kgat_predefined() -> None:
    result = split(load("amazon-book-kgat"), SplitSettings(strategy="predefined", name="kgat", valid=0.0))
    assert (result.train.histories.size, result.test.targets.size) == (652514, 193920)


@real
def test_warnings_of_the_data_are_in_the_metadata() -> None:
    data = load("ml-1m")
    if not any("REBUILT" in text or "rebuilt" in text for text in data.header["warnings"]):
        pytest.skip("the ml-1m archive is the official one")
    result = split(data, SplitSettings(strategy="global_temporal"))
    assert any("users 1..2999" in text for text in result.metadata["warnings"])


def test_every_strategy_is_a_setting() -> None:
    assert sorted(get_args(SplitSettings.model_fields["strategy"].annotation)) == sorted(split_strategies.__all__)


def test_unknown_predefined_split() -> None:
    with pytest.raises(ValueError, match=r"unknown predefined split 'u9'; table has none"):
        split(small(), SplitSettings(strategy="predefined", name="u9"))
    with pytest.raises(ValueError, match="expected a predefined split"):
        split(small(), SplitSettings(strategy="predefined"))


def test_ratio_rounds_down_per_user() -> None:
    result = split(small(n=9), SplitSettings(strategy="per_user_ratio", test=0.25, valid=0.12))
    assert list(result.test.targets.lengths) == [2] * 4
    assert list(result.valid.targets.lengths) == [1] * 4
    assert list(result.train.histories.lengths) == [6] * 4


def test_per_user_random_draws_from_each_user() -> None:
    result = split(small(n=9), SplitSettings(strategy="per_user_random", test=0.25, valid=0.12))
    assert list(result.test.targets.lengths) == [2] * 4
    assert list(result.valid.targets.lengths) == [1] * 4
    assert list(result.train.histories.lengths) == [6] * 4
    test_items = result.test.targets.items.reshape(4, 2)
    assert len({tuple(row) for row in test_items.tolist()}) > 1
    assert (test_items < 7).any()
    other = split(small(n=9), SplitSettings(strategy="per_user_random", test=0.25, valid=0.12, seed=1))
    assert not np.array_equal(other.test.targets.items, result.test.targets.items)


def test_held_out_users_have_their_oldest_events_as_history() -> None:
    result = split(small(n=10, users=20), SplitSettings(strategy="held_out_users", test=0.2, valid=0.1, history=0.6))
    assert len(result.test) == 4
    assert len(result.valid) == 2
    assert result.metadata["train_users"] == 14
    assert list(result.test.queries.history.lengths) == [6] * 4
    assert list(result.test.targets.lengths) == [4] * 4
    assert not result.test.queries.known.any()


def test_random_shares() -> None:
    result = split(small(n=50), SplitSettings(strategy="random", test=0.3, valid=0.1, seed=3))
    assert (result.test.targets.size, result.valid.targets.size, result.train.histories.size) == (60, 20, 120)
    other = split(small(n=50), SplitSettings(strategy="random", test=0.3, valid=0.1, seed=4))
    assert not np.array_equal(other.test.targets.items, result.test.targets.items)


def test_temporal_shares() -> None:
    result = split(
        small(n=10, users=4), SplitSettings(strategy="global_temporal", test=0.2, valid=0.1)
    )  # 40 different times
    assert (result.train.histories.size, result.valid.targets.size, result.test.targets.size) == (28, 4, 8)
    assert result.test.queries.history.size == 32


def test_ties_are_on_the_later_side_of_the_cut() -> None:
    data = load(pl.DataFrame({"user_id": range(10), "item_id": range(10), "timestamp": [1, 2, 3, 4, 5, 5, 5, 5, 5, 6]}))
    result = split(data, SplitSettings(strategy="global_temporal", test=0.2, valid=0.0))
    assert result.train.histories.size == 4
    assert result.test.targets.size == 6


def test_query_times_are_optional() -> None:
    assert split(small()).test.queries.times is None
    timed = split(small(), SplitSettings(use_query_time=True))
    assert list(timed.test.queries.times) == [900, 901, 902, 903]
    assert timed.metadata["has_query_times"]


def test_invalid_splits() -> None:
    no_times = load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}))
    with pytest.raises(ValueError, match="has no times"):
        split(no_times, SplitSettings(strategy="global_temporal"))
    with pytest.raises(ValueError, match="leave nothing to train"):
        SplitSettings(strategy="random", test=0.6, valid=0.4)
    with pytest.raises(ValueError, match="got 5 of 5"):
        SplitSettings(strategy="k_fold", fold=5)
    with pytest.raises(ValueError, match="no event of table is left"):
        split(
            load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [5, 5]})),
            SplitSettings(strategy="global_temporal"),
        )


def test_cut_at_a_date() -> None:
    days = [f"2024-01-{day:02d}T12:00:00Z" for day in (1, 2, 3, 4, 5, 6)]
    data = load(pl.DataFrame({"user_id": [1, 2] * 3, "item_id": range(6), "timestamp": days}))
    result = split(data, SplitSettings(strategy="global_temporal", cutoff="2024-01-05", valid_cutoff="2024-01-04"))
    assert [part.size for part in (result.train.histories, result.valid.targets, result.test.targets)] == [3, 1, 2]
    by_object = SplitSettings(strategy="global_temporal", cutoff=date(2024, 1, 5))  # type: ignore[arg-type]
    assert by_object.cutoff == "2024-01-05"
    share = split(data, by_object.model_copy(update={"valid": 1 / 6}))
    assert [part.size for part in (share.train.histories, share.valid.targets, share.test.targets)] == [3, 1, 2]
    with pytest.raises(ValueError, match="expected an ISO date"):
        SplitSettings(strategy="global_temporal", cutoff="yesterday")
    with pytest.raises(ValueError, match="expected a time before the test cutoff 2024-01-05T00:00:00"):
        split(data, SplitSettings(strategy="global_temporal", cutoff="2024-01-05", valid_cutoff="2024-01-06"))
    with pytest.raises(ValueError, match="only used by strategy global_temporal, got random"):
        SplitSettings(strategy="random", cutoff="2024-01-05")


def test_sliding_windows_of_days() -> None:
    days = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 1, 20), "1d", time_zone="UTC", eager=True)
    data = load(pl.DataFrame({"user_id": [1, 2] * 10, "item_id": range(20), "timestamp": days}))
    expanding = list(sliding_windows(data, test="3d", count=2, valid="2d"))
    assert [w.train.histories.size for w in expanding] == [12, 15]
    assert [w.valid.targets.size for w in expanding] == [2, 2]
    assert [w.test.targets.size for w in expanding] == [3, 3]
    assert [w.metadata["unused_events"] for w in expanding] == [3, 0]
    sliding = list(sliding_windows(data, test="3d", count=2, train="1w"))
    assert [w.train.histories.size for w in sliding] == [7, 7]
    assert [w.metadata["unused_events"] for w in sliding] == [10, 10]
    with pytest.raises(ValueError, match="leave nothing to train on"):
        sliding_windows(data, test="7d")
    with pytest.raises(ValueError, match=r"test: got '3 days', expected a duration such as"):
        sliding_windows(data, test="3 days")


def test_cold_targets_are_dropped_and_counted() -> None:
    data = load(pl.DataFrame({"user_id": [1, 1, 2, 2, 2], "item_id": [1, 2, 1, 3, 1], "timestamp": range(5)}))
    result = split(data, SplitSettings(strategy="global_temporal", cutoff=2, valid=0.0))
    assert result.test.targets.items.tolist() == [0, 2]
    assert result.metadata["test"]["repeated_targets"] == 1
    dropped = split(data, SplitSettings(strategy="global_temporal", cutoff=2, valid=0.0, drop_cold_targets=True))
    assert len(dropped.test) == 0
    assert dropped.metadata["test"]["cold_targets_dropped"] == 2


def test_folds_reject_an_unknown_unit() -> None:
    with pytest.raises(ValueError, match="over: got 'items', expected interactions or users"):
        folds(small(), 3, "items")  # type: ignore[arg-type]
