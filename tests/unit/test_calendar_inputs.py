"""Calendar inputs: bins, cyclic encoding, and where the times come from."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

import segue
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.nn.inputs.calendar_bins import CALENDAR_BINS, calendar_bins, cyclic_basis
from segue.testing import dataset, train_small


@given(st.lists(st.integers(-(10**9), 10**11 - 1), min_size=1, max_size=20))
def test_bins_equal_those_of_the_standard_library(seconds: list[int]) -> None:
    moments = [datetime.fromtimestamp(one, UTC) for one in seconds]
    expected = {
        "hour": [one.hour for one in moments],
        "weekday": [one.weekday() for one in moments],
        "month": [one.month - 1 for one in moments],
        "season": [one.month % 12 // 3 for one in moments],
    }
    times = torch.tensor([seconds], dtype=torch.float64)
    assert {name: calendar_bins(name, times)[0].tolist() for name in CALENDAR_BINS} == expected


def test_leap_days_and_unknown_times() -> None:
    dates = [datetime(year, 2, 29, 23, 59, 59, tzinfo=UTC).timestamp() for year in (1972, 2000, 2024, 2400)]
    times = torch.tensor([[*dates, float("nan")]], dtype=torch.float64)
    assert calendar_bins("month", times).tolist() == [[1, 1, 1, 1, -1]]
    assert calendar_bins("month", times + 1).tolist() == [[2, 2, 2, 2, -1]]


@pytest.mark.parametrize("n_bins", CALENDAR_BINS.values())
def test_the_cyclic_encoding_is_a_circle_that_can_express_any_function(n_bins: int) -> None:
    basis = cyclic_basis(n_bins)
    assert basis.shape == (n_bins, n_bins - 1)
    products = basis @ basis.T
    np.testing.assert_allclose(
        products, products[0, (np.arange(n_bins)[None] - np.arange(n_bins)[:, None]) % n_bins], atol=1e-6
    )
    np.testing.assert_allclose(products[0, 0], 1, rtol=1e-6)
    nearest = products[0, 1:].argsort()[::-1][:2] + 1
    assert sorted(nearest) == [1, n_bins - 1]
    # with a constant, which any network has, the encoding has full rank
    assert np.linalg.matrix_rank(np.column_stack([basis, np.ones(n_bins)])) == n_bins


@pytest.mark.parametrize("name", ["hour", "query_month"])
def test_a_clock_without_dates_is_rejected(name: str) -> None:
    events = replace(Events.of([[0, 1, 2]] * 4), times=np.arange(12))
    with pytest.raises(ValueError, match=f"'{name}' is not available: .* no dates: its times are integers up to 11"):
        train_small("gru4rec", dataset(events, 3), inputs=(name,))


def log_with_placeholders(shift: int) -> Dataset:
    rng = np.random.default_rng(0)
    known = np.arange(96) % 3 != 1
    times = 1_600_000_000 + np.arange(96) * 100_000 + np.where(known, 0, shift)
    histories = Events(
        np.arange(17) * 6,
        rng.integers(0, 10, 96),
        times=np.sort(times) if shift == 0 else times,
        context={"time_known": known},
    )
    return Dataset("placeholders", Vocab([f"u{n}" for n in range(16)]), Vocab([f"i{n}" for n in range(10)]), histories)


@pytest.mark.parametrize("name", ["hour", "query_weekday"])
def test_placeholder_times_are_never_read(name: str) -> None:
    scores = []
    for shift in (0, 40_000):
        data = log_with_placeholders(shift)
        model: Any = segue.train("gru4rec", data, recipe="none", epochs=1, inputs=[name]).model
        scores.append(model.score(Queries.anonymous(data.histories)))
    np.testing.assert_array_equal(scores[0], scores[1])


def test_inputs_of_the_query_need_query_times() -> None:
    data = segue.load("simulated?users=40&items=20")
    with pytest.raises(ValueError, match=r"'query_hour' needs the time of each query.*use_query_time=true"):
        segue.train("gru4rec", segue.split(data), recipe="none", epochs=1, inputs=["hour", "query_hour"])


def test_evaluation_warns_of_queries_without_times() -> None:
    data = segue.load("simulated?users=40&items=20")
    parts = segue.split(data, use_query_time=True)
    model = segue.train("gru4rec", parts, recipe="none", epochs=1, inputs=["query_hour", "query_time"])
    segue.evaluate(model, parts)  # without a warning
    with pytest.warns(
        segue.SegueWarning, match="'gru4rec' reads query_hour, query_time, but the queries have no times"
    ):
        segue.evaluate(model, segue.split(data))


def test_recommendations_at_a_time() -> None:
    data = segue.load("simulated?users=40&items=20")
    model = segue.train("gru4rec", data, recipe="none", epochs=1, inputs=["query_hour"])
    user, noon = data.users.ids[0], datetime(2024, 5, 1, 12, tzinfo=UTC)

    def scores(**arguments: Any) -> dict[Any, float]:
        found = segue.recommend(model, user, k=20, exclude_seen=False, **arguments)
        assert ("time" in str(found["notes"][0])) == ("time" not in arguments)
        return dict(found.select("item_id", "score").iter_rows())

    with pytest.warns(segue.SegueWarning, match="'gru4rec' also reads query_hour, which is unknown here; give time"):
        unknown = scores()
    timed = replace(Queries.of_users(np.zeros(1, np.int32), data.histories.take(np.zeros(1, int))))
    expected = model.model.score(replace(timed, times=np.array([int(noon.timestamp())])))[0]
    for time in (noon, noon.replace(tzinfo=None), noon.timestamp(), int(noon.timestamp()), "2024-05-01T14:00+02:00"):
        assert scores(time=time) == pytest.approx(dict(zip(data.items.ids, expected.tolist(), strict=True)), rel=1e-4)
    assert scores(time=noon) != unknown
    assert scores(time=noon) != scores(time=noon.replace(hour=0))
    for wrong in ("noon", True, float("nan"), -1, 1_700_000_000_000, [noon]):
        with pytest.raises(ValueError, match=r"time=: got .*, expected Unix seconds such as 1700000000, a datetime"):
            segue.recommend(model, user, time=wrong)
    with pytest.warns(segue.SegueWarning, match="'popular' makes no use of this time"):
        segue.recommend(segue.train("popular", data), user, time=noon, exclude_seen=False)


def test_the_command_takes_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = segue.load("simulated?users=40&items=20")
    model = segue.train("gru4rec", data, recipe="none", epochs=1, inputs=["query_hour"])
    segue.save(model, tmp_path / "model")
    user, out = str(data.users.ids[0]), tmp_path / "out.parquet"
    expected = segue.recommend(model, user, time=1_714_564_800, exclude_seen=False)
    command = ["recommend", str(tmp_path / "model"), "--include-seen", "--time"]
    for time in ("2024-05-01T12:00", "1714564800"):
        for source in (["--user", user, "--out", str(out)], ["--user", user, "--json"]):
            status, printed, err = call(capsys, *command, time, *source)
            assert status == 0, err
            rows = pl.read_parquet(out).to_dicts() if "--out" in source else json.loads(printed)["recommendations"]
            assert [row["score"] for row in rows] == pytest.approx(expected["score"].to_list(), rel=1e-4)
    status, _, err = call(capsys, *command, "noon", "--user", user)
    assert status != 0
    assert "--time: got 'noon', expected Unix seconds" in err


def test_each_calendar_input_changes_the_scores_and_can_be_left_out() -> None:
    """Queries that differ only in the hour get different scores from a model that reads it, and from no other."""
    data = replace(log_with_placeholders(0), histories=replace(log_with_placeholders(0).histories, context={}))
    night, noon = (
        replace(Events.of([[1, 2]]), times=np.array([1_600_000_000, last])) for last in (1_600_041_000, 1_600_005_000)
    )
    for inputs, expected in ((("hour",), True), (("weekday",), False), ((), False)):
        model: Any = train_small("gru4rec", data, epochs=1, inputs=inputs)
        differs = not np.array_equal(*(model.score(Queries.anonymous(events)) for events in (noon, night)))
        assert differs == expected, inputs
    model = train_small("gru4rec", data, epochs=1, inputs=("query_hour",))
    queries = [replace(Queries.anonymous(noon), times=np.array([time])) for time in (1_600_100_000, 1_600_140_000)]
    assert not np.array_equal(model.score(queries[0]), model.score(queries[1]))
