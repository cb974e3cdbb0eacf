"""Splits on the real files and on cases worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from segue.core.types import Dataset
from segue.data import SplitSettings, load, split, split_strategies

real = pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


def small(n: int = 10, users: int = 4) -> Dataset:
    rows = [(u, i, 100 * i + u) for u in range(users) for i in range(n)]
    return load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


@real
def test_100k_by_time() -> None:
    done = split(load("ml-100k"), SplitSettings(kind="temporal", test=0.2, valid=0.0))
    assert done.facts["train_users"] == 751
    assert done.facts["test"]["queries"] == 301
    assert done.facts["test"]["cold_users"] == 192
    assert done.facts["test"]["empty_histories"] == 192
    assert len(done.valid) == 0


@real
@pytest.mark.parametrize(("name", "train", "test"), [("u1", 80000, 20000), ("ua", 90570, 9430), ("ub", 90570, 9430)])
def test_100k_given(name: str, train: int, test: int) -> None:
    done = split(load("ml-100k"), SplitSettings(kind="given", name=name, valid=0.0))
    assert (done.train.histories.size, done.test.targets.size) == (train, test)
    assert done.facts["given"] == name


@real
def test_100k_given_test_is_the_file() -> None:
    import zipfile

    archive = next(p for p in Path(os.environ["SEGUE_ARCHIVES"]).glob("*.zip") if p.name == "ml-100k.zip")
    with zipfile.ZipFile(archive) as file:
        lines = file.read("ml-100k/u3.test").decode().splitlines()
    data = load("ml-100k")
    done = split(data, SplitSettings(kind="given", name="u3"))
    users = data.users.decode(done.test.queries.users[done.test.targets.rows])
    found = set(zip(users, data.items.decode(done.test.targets.items), strict=True))
    assert found == {tuple(line.split("\t")[:2]) for line in lines}


@real
def test_kgat_given() -> None:
    done = split(load("amazon-book-kgat"), SplitSettings(kind="given", name="kgat", valid=0.0))
    assert (done.train.histories.size, done.test.targets.size) == (652514, 193920)


@real
def test_rebuilt_times_are_told_beside_the_split() -> None:
    data = load("ml-1m")
    if not any("REBUILT" in text or "rebuilt" in text for text in data.header["warnings"]):
        pytest.skip("the ml-1m archive is the official one")
    done = split(data, SplitSettings(kind="temporal"))
    assert any("users 1..2999" in text for text in done.facts["warnings"])


def test_every_protocol_is_a_setting() -> None:
    assert sorted(get_args(SplitSettings.model_fields["kind"].annotation)) == sorted(split_strategies.__all__)


def test_a_given_split_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"no given split 'u9'; has none"):
        split(small(), SplitSettings(kind="given", name="u9"))
    with pytest.raises(ValueError, match="which given split"):
        split(small(), SplitSettings(kind="given"))


def test_ratio_rounds_down_per_user() -> None:
    done = split(small(n=9), SplitSettings(kind="ratio", test=0.25, valid=0.12))
    assert list(done.test.targets.lengths) == [2] * 4
    assert list(done.valid.targets.lengths) == [1] * 4
    assert list(done.train.histories.lengths) == [6] * 4


def test_random_ratio_draws_shares_of_each_user() -> None:
    done = split(small(n=9), SplitSettings(kind="random_ratio", test=0.25, valid=0.12))
    assert list(done.test.targets.lengths) == [2] * 4
    assert list(done.valid.targets.lengths) == [1] * 4
    assert list(done.train.histories.lengths) == [6] * 4
    drawn = done.test.targets.items.reshape(4, 2)
    assert len({tuple(row) for row in drawn.tolist()}) > 1
    assert (drawn < 7).any()
    other = split(small(n=9), SplitSettings(kind="random_ratio", test=0.25, valid=0.12, seed=1))
    assert not np.array_equal(other.test.targets.items, done.test.targets.items)


def test_held_out_users_show_their_first_part() -> None:
    done = split(small(n=10, users=20), SplitSettings(kind="held_out_users", test=0.2, valid=0.1, history=0.6))
    assert len(done.test) == 4
    assert len(done.valid) == 2
    assert done.facts["train_users"] == 14
    assert list(done.test.queries.history.lengths) == [6] * 4
    assert list(done.test.targets.lengths) == [4] * 4
    assert not done.test.queries.known.any()


def test_random_shares() -> None:
    done = split(small(n=50), SplitSettings(kind="random", test=0.3, valid=0.1, seed=3))
    assert (done.test.targets.size, done.valid.targets.size, done.train.histories.size) == (60, 20, 120)
    other = split(small(n=50), SplitSettings(kind="random", test=0.3, valid=0.1, seed=4))
    assert not np.array_equal(other.test.targets.items, done.test.targets.items)


def test_temporal_shares() -> None:
    done = split(small(n=10, users=4), SplitSettings(kind="temporal", test=0.2, valid=0.1))  # 40 different times
    assert (done.train.histories.size, done.valid.targets.size, done.test.targets.size) == (28, 4, 8)
    assert done.test.queries.history.size == 32


def test_equal_seconds_stand_on_one_side_of_the_cut() -> None:
    data = load(pl.DataFrame({"user_id": range(10), "item_id": range(10), "timestamp": [1, 2, 3, 4, 5, 5, 5, 5, 5, 6]}))
    done = split(data, SplitSettings(kind="temporal", test=0.2, valid=0.0))
    assert done.train.histories.size == 4
    assert done.test.targets.size == 6


def test_time_is_told_only_when_asked() -> None:
    assert split(small()).test.queries.times is None
    told = split(small(), SplitSettings(tell_time=True))
    assert list(told.test.queries.times) == [900, 901, 902, 903]
    assert told.facts["told_time"]


def test_what_cannot_be_split() -> None:
    no_times = load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2]}))
    with pytest.raises(ValueError, match="has no times"):
        split(no_times, SplitSettings(kind="temporal"))
    with pytest.raises(ValueError, match="leaves nothing to train"):
        SplitSettings(test=0.6, valid=0.4)
    with pytest.raises(ValueError, match="fold 5 of 5"):
        SplitSettings(kind="k_fold", fold=5)
    with pytest.raises(ValueError, match="no event of table is left"):
        split(
            load(pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "timestamp": [5, 5]})),
            SplitSettings(kind="temporal"),
        )
