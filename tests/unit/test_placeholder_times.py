"""Placeholder times are marked as unknown from the archive to the batch."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

import segue
from segue.core.batches import known_times, query_batches, training_batches
from segue.core.model import Predictor
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.data import Filters, load, open_dataset, split
from segue.data.splits import SplitSettings
from segue.evaluation.rating_metrics import prediction_errors, training_errors
from segue.nn.training_targets import cloze, next_item

RATINGS = "1::10::5::100\n1::11::4::200\n2::10::3::300\n2::12::3::301\n2::11::1::302\n"
MOVIES = "10::A (1990)::Drama\n11::B (1991)::Comedy\n12::C (1992)::Drama\n"
USERS = "1::F::1::10::48067\n2::M::25::4::02460\n"
PARTIALLY_REAL = """Exact: the Timestamp of rows 1..2 (user 1);
the Timestamp of each later user's
last interaction. NOT real: the others."""


def write_archive(folder: Path, rebuilt: str | None) -> None:
    with ZipFile(folder / "a.zip", "w") as file:
        file.writestr("ml-1m/ratings.dat", RATINGS)
        file.writestr("ml-1m/movies.dat", MOVIES)
        file.writestr("ml-1m/users.dat", USERS)
        if rebuilt is not None:
            file.writestr("ml-1m/REBUILT.txt", rebuilt)


@pytest.mark.parametrize(
    ("rebuilt", "known"),
    [
        (None, None),
        (PARTIALLY_REAL, [True, True, False, False, True]),
        ("rows were put together from pieces", [False] * 5),
    ],
)
def test_known_times_are_read_from_the_archive(
    rebuilt: str | None, known: list[bool] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_archive(tmp_path, rebuilt)
    monkeypatch.setenv("SEGUE_ARCHIVES", str(tmp_path))
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    data = load("ml-1m")
    context = data.histories.context
    assert (known is None and not context) or context["time_known"].tolist() == known
    reopened = open_dataset(data.header["folder"])
    assert (known is None and not context) or reopened.histories.context["time_known"].tolist() == known
    assert data.header["counts"].get("times_known") == (None if known is None else sum(known))
    if known is not None:
        filtered = load("ml-1m", filters=Filters(min_value=2))
        assert filtered.histories.context["time_known"].tolist() == known[:4]


def test_hash_does_not_depend_on_time_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = set()
    for name, rebuilt in (("official", None), ("rebuilt", PARTIALLY_REAL)):
        (tmp_path / name).mkdir()
        write_archive(tmp_path / name, rebuilt)
        monkeypatch.setenv("SEGUE_ARCHIVES", str(tmp_path / name))
        monkeypatch.setenv("SEGUE_HOME", str(tmp_path / name / "home"))
        hashes.add(load("ml-1m").header["hash"])
    assert len(hashes) == 1


def test_placeholder_times_are_unknown_inputs() -> None:
    times = np.array([10, 20, 30, 40, 50])
    known = np.array([True, False, True, True, False])
    events = Events(np.array([0, 3, 5]), np.arange(5), times=times, context={"time_known": known})
    np.testing.assert_array_equal(known_times(events, np.arange(5)), [10, np.nan, 30, 40, np.nan])
    columns = ("times", "query_times")
    for objective in (next_item, cloze):
        _, batches = training_batches(
            events, 9, 5, 5, np.random.default_rng(0), objective, all_windows=False, pool=1, columns=columns
        )
        for batch in batches:
            for column in batch.columns.values():
                assert not {20, 50} & set(column.flatten().tolist())
    queries = Queries.anonymous(events)
    for _, sequences in query_batches(queries, 9, None, 100, columns=columns):
        for column in sequences.columns.values():
            assert not {20, 50} & set(column.flatten().tolist())
    # selecting events keeps the column aligned
    assert events.take(np.array([1])).context["time_known"].tolist() == [True, False]


@pytest.fixture
def shared_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepare public data once per session."""
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")
def test_rebuilt_archive(shared_home: None) -> None:
    data = load("ml-1m")
    if not data.header["warnings"]:
        assert not data.histories.context
        return
    known, rows = data.histories.context["time_known"], data.histories.rows
    assert known[rows < 2999].all()
    later = known & (rows >= 2999)
    assert (np.bincount(rows[later], minlength=6040)[2999:] == 1).all()
    data_split = split(data, SplitSettings())
    assert len(data_split.train.histories.context["time_known"]) == data_split.train.histories.size


def log_with_placeholders(shift: int) -> Dataset:
    """A log of ratings in which every third time is a placeholder that depends on ``shift``."""
    rng, n_users, length = np.random.default_rng(0), 24, 8
    offsets = np.arange(n_users + 1) * length
    items = np.concatenate([rng.permutation(12)[:length] for _ in range(n_users)])
    times = 1_600_000_000 + 86_400 * 30 * np.arange(n_users * length) % 500_000_000
    known = np.arange(len(items)) % 3 != 1
    times = times // 3 * 3 + np.where(known, 0, shift * 86_400)
    values = rng.integers(1, 6, len(items)).astype(np.float32)
    context = {"time_known": known}
    histories = Events(offsets, items, values=values, times=times, context=context)
    ids = [f"u{n}" for n in range(n_users)], [f"i{n}" for n in range(12)]
    return Dataset("placeholders", Vocab(ids[0]), Vocab(ids[1]), histories)


TIME_READERS = [
    ("recent_popular", {}),
    ("factorization_machine", {"inputs": ["date"], "iterations": 6}),
    ("gru4rec", {"inputs": ["gap", "query_time", "session_position"], "epochs": 1}),
    ("hstu", {"time_bias": True, "query_time": True, "epochs": 1}),
    ("item_knn", {}),
]


@pytest.mark.parametrize(("name", "settings"), TIME_READERS, ids=[name for name, _ in TIME_READERS])
def test_no_model_reads_placeholder_times(name: str, settings: dict[str, Any]) -> None:
    scores, errors = [], []
    for shift in (0, 400):
        parts = segue.split(log_with_placeholders(shift), use_query_time=True)
        model = segue.train(name, parts.train, **settings).model
        held_out = parts.test
        unknown_users = replace(held_out.queries, known=np.zeros(len(held_out), np.bool_))
        scores.append(np.stack([model.score(held_out.queries), model.score(unknown_users)]))
        if isinstance(model, Predictor) and model.predicts_ratings:
            errors.append(prediction_errors(model, held_out).errors)
            errors[-1] = np.append(errors[-1], training_errors(model, parts.train.histories, True)["rmse"])  # type: ignore[index]
    np.testing.assert_array_equal(scores[0], scores[1])
    if errors:
        np.testing.assert_array_equal(errors[0], errors[1])


def test_recent_popular_counts_events_without_real_times_as_old(caplog: pytest.LogCaptureFixture) -> None:
    data = log_with_placeholders(0)
    segue.train("recent_popular", data)
    assert "64 of 192 times of placeholders are not real" in caplog.text
    unreal = replace(data.histories, context={"time_known": np.zeros(192, np.bool_)})
    without = replace(data.histories, times=None, context={})
    scores = [
        segue.train("recent_popular", data.with_histories(histories)).model.log_popularity_I  # type: ignore[attr-defined]
        for histories in (unreal, without)
    ]
    np.testing.assert_array_equal(*scores)
    assert "placeholders has no real times" in caplog.text


@pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")
def test_no_model_reads_the_placeholder_times_of_a_rebuilt_archive(shared_home: None) -> None:
    data = load("ml-1m")
    known = data.histories.time_known
    if known.all():
        pytest.skip("the archive is not a rebuilt one")
    users = np.arange(2900, 3100)  # users with real times, and users with placeholders
    part = data.histories.take(users)
    rest = np.full(len(data.users) - len(users), part.size)
    results: list[list[Any]] = []
    for shift in (0, 10**7):
        assert part.times is not None
        times = np.where(part.time_known, part.times, part.times + shift)
        offsets = np.concatenate([part.offsets, rest])
        train = data.with_histories(replace(part, offsets=offsets, times=times))
        models = [
            segue.train("recent_popular", train).model,
            segue.train("factorization_machine", train, inputs=["date"], iterations=3, embedding_dim=2).model,
        ]
        queries = Queries.of_users(np.arange(190, 200, dtype=np.int32), train.histories.take(np.arange(190, 200)))
        results.append([model.score(queries) for model in models])
    np.testing.assert_equal(results[0], results[1])
