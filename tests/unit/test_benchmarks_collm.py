"""The benchmark of likes, and its source."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import collm
from benchmarks.collm import LOGISTIC, MEANS, measure, page, select_events, smoothed_means
from segue.core.types import Dataset, Events
from segue.data import load
from segue.data.sources.collm_ml_1m import TEST_FROM, VALID_FROM
from segue.data.splits import SplitSettings, split
from segue.evaluation.click_metrics import auc
from segue.testing import dataset

CUTS = "1970-01-01T00:10:00", "1970-01-01T00:15:00"


def log(users: int = 40) -> Dataset:
    """Return events at the seconds 0 to 1199."""
    rng = np.random.default_rng(0)
    rows = Events.of([rng.permutation(30)[: rng.integers(6, 25)].tolist() for _ in range(users)])
    likes = (rng.random(rows.size) < 0.2 + 0.6 * (rows.items % 2)).astype(np.float32)
    first = np.where(np.arange(users) % 4 == 0, 1000, 0)  # some users begin in the test
    times = np.concatenate(
        [np.sort(rng.integers(low, 1200, size=n)) for low, n in zip(first, rows.lengths, strict=True)]
    )
    data = dataset(replace(rows, values=likes, times=times), 30)
    names = [[f"name {code % 5}"] for code in range(30)]
    films = pl.DataFrame({"id": data.items.ids.to_list(), "directors": names, "writers": names, "actors": names})
    return replace(data, item_features=films.lazy())


def test_histories_are_the_earlier_events_of_the_user() -> None:
    data = log()
    events = data.histories
    assert events.times is not None
    assert events.values is not None
    is_train, is_test = events.times < 600, events.times >= 900
    part = select_events(data, is_test, is_train)
    index = np.flatnonzero(is_test)
    trained = {*events.rows[is_train].tolist()}, {*events.items[is_train].tolist()}
    for row, event in enumerate(index):
        user = events.rows[event]
        earlier = slice(events.offsets[user], event)
        found = {name: queries.history.take(np.array([row])) for name, queries in part.queries.items()}
        np.testing.assert_array_equal(found["all"].items, events.items[earlier])
        np.testing.assert_array_equal(found["all"].values, events.values[earlier])
        np.testing.assert_array_equal(found["likes"].items, events.items[earlier][events.values[earlier] > 0])
        assert part.queries["likes"].known[row] == (user in trained[0])
        assert part.is_warm_E[row] == (user in trained[0] and events.items[event] in trained[1])
    np.testing.assert_array_equal(part.labels_E, events.values[index] > 0)
    with pytest.raises(ValueError, match="expected values of 0 and 1"):
        select_events(data.with_histories(replace(events, values=events.values + 1)), is_test, is_train)


def test_means_are_smoothed_log_odds() -> None:
    data = log()
    train = replace(Events.of([[0, 0, 1], []]), values=np.array([1, 1, 0], np.float32))
    part = select_events(data, np.arange(data.histories.size) < 2, np.zeros(data.histories.size, np.bool_))
    part = replace(part, users_E=np.array([0, 1]), items_E=np.array([0, 5], np.int32))

    def odds(share: float) -> float:
        return float(np.log(share / (1 - share)))

    mean = 2 / 3
    expected = [odds((2 + 5 * mean) / 7) + odds((2 + 5 * mean) / 8), 2 * odds(mean)]
    np.testing.assert_allclose(smoothed_means(train, 5.0, "training", 30)(part), expected, rtol=1e-5)


def test_means_with_labels_read_the_history_of_the_query() -> None:
    data = log()
    times = data.histories.times
    assert times is not None
    part = select_events(data, times >= 900, times < 600)
    train = data.histories.where(times < 600)
    plain, labels = (smoothed_means(train, 5.0, users, 30)(part) for users in (None, "history"))
    history = part.queries["all"].history
    assert history.values is not None
    assert train.values is not None
    for row in (0, len(plain) // 2, len(plain) - 1):
        own = history.values[history.offsets[row] : history.offsets[row + 1]]
        share = (own.sum() + 5 * train.values.mean()) / (len(own) + 5)
        assert labels[row] - plain[row] == pytest.approx(np.log(share / (1 - share)), rel=1e-5)
    assert part.queries["none"].history.size == 0


def test_each_row_is_compared_with_means_that_have_its_inputs() -> None:
    for name, row in collm.ROWS.items():
        baseline = collm.ROWS[row.baseline]
        assert baseline.learns_validation == row.learns_validation, name
        assert (baseline.history == "all") == (row.history == "all"), name


def test_rows_are_measured_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    data = log()
    monkeypatch.setattr(collm, "RESAMPLES", 30)
    monkeypatch.setitem(collm.ROWS, LOGISTIC, replace(collm.ROWS[LOGISTIC], grid=collm.GRID[::6]))
    found = measure(
        data, [MEANS, collm.MEANS_LABELS, LOGISTIC, "als (labels)"], 2, quick=False, log=lambda _: None, cuts=CUTS
    )
    rows = found["rows"]
    assert len(rows[LOGISTIC]["seeds"]) == 1
    assert rows[LOGISTIC]["seeds"][0][0] > 0.65
    low, high = rows[LOGISTIC]["intervals"][0]
    assert low < rows[LOGISTIC]["seeds"][0][0] < high
    assert rows[MEANS]["differences"][0] == [0.0, 0.0, 0.0]
    text = page(found)
    assert "* als (labels), from item mean + user mean (labels): AUC " in text
    assert rows[collm.MEANS_LABELS]["differences"][0] == [0.0, 0.0, 0.0]
    assert "| BinLLM, 7B | published | 0.7425 | 0.6956 |" in text
    assert "* logistic_regression and BinLLM, 7B: AUC " in text


@pytest.mark.skipif(not os.environ.get("SEGUE_ARCHIVES"), reason="SEGUE_ARCHIVES names no folder of archives")
def test_the_split_by_month_is_that_of_the_archive() -> None:
    data = load("collm-ml-1m")
    parts = split(data, SplitSettings(strategy="global_temporal", valid_cutoff=VALID_FROM, cutoff=TEST_FROM))
    assert parts.train.histories.size == 33891
    assert (parts.valid.targets.size, parts.test.targets.size) == (10401, 7331)
    times = data.histories.times
    assert times is not None
    assert parts.test.targets.times is not None
    is_train, is_test = times <= 1017615347, times >= parts.test.targets.times.min()
    valid, test = (select_events(data, part, is_train) for part in (~(is_train | is_test), is_test))
    assert (int(valid.is_warm_E.sum()), int(test.is_warm_E.sum())) == (6609, 4153)
    means = smoothed_means(parts.train.histories, 5.0, "training", data.n_items)(valid)
    assert auc(valid.labels_E, means) == pytest.approx(0.7341, abs=1e-4)
    assert data.item_features is not None
    films = data.item_features.collect()
    assert films["genres"].null_count() == 0
    assert films["directors"].null_count() < 0.05 * len(films)
