"""Times of every type and unit, from the log to seconds."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from segue.data import load

START = int(datetime(2019, 10, 1, tzinfo=UTC).timestamp())


def log_of(times: Any) -> pl.DataFrame:
    n = len(times)
    return pl.DataFrame({"user_id": np.arange(n), "item_id": np.arange(n), "timestamp": times})


def read(times: Any) -> tuple[list[int], str]:
    messages: list[str] = []
    data = load(log_of(times), log=messages.append)
    assert data.histories.times is not None
    return data.histories.times.tolist(), "\n".join(messages)


@pytest.mark.parametrize(
    "times",
    [
        ["2019-10-01 00:00:00 UTC", "2019-10-01 00:00:01 UTC"],
        ["2019-10-01 00:00:00Z", "2019-10-01T00:00:01z"],
        ["2019-10-01 02:00:00+02", "2019-10-01 02:00:01.000+02"],
        ["2019-09-30 18:30:00-0530", "2019-09-30 18:30:01 -05:30"],
        ["2019-10-01 00:00 GMT", "2019-10-01 00:00:01"],
        [f"{START}.0", f"{START + 1}.25"],
        [f"{START}", f"{START + 1}.25"],
        [Decimal(START), Decimal(START) + Decimal("1.25")],
        [START * 1000, START * 1000 + 1250],
        [f"{START}000", f"{START + 1}250"],
        [START * 10**6, START * 10**6 + 1_250_000],
        [START * 10**9, START * 10**9 + 1_250_000_000],
        [START * 1000.0, START * 1000.0 + 1250.0],
    ],
)
def test_times_of_any_unit_and_zone_are_read_as_seconds(times: list[Any]) -> None:
    assert read(times)[0] == [START, START + 1]
    assert read(pl.Series(list(map(str, times)), dtype=pl.Categorical))[0] == [START, START + 1]


@pytest.mark.parametrize("kind", ["text", "date", "csv"])
def test_a_date_far_in_the_future_does_not_change_the_other_dates(kind: str, tmp_path: Path) -> None:
    dates: list[Any] = [date(2019, 10, 1), date(2019, 10, 2), date(9999, 12, 31)]
    if kind != "date":
        dates = [day.isoformat() for day in dates]
    messages: list[str] = []
    source: Any = log_of(dates)
    if kind == "csv":
        source.write_csv(tmp_path / "log.csv")
        source = tmp_path / "log.csv"
    data = load(source, log=messages.append, out=tmp_path / "out")
    assert data.histories.times is not None
    assert data.histories.times.tolist() == [START, START + 86400, 253402214400]
    assert any("1 of 3 times are after 2099, the first in" in text and "9999-12-31" in text for text in messages)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("other", [(START + 1) * 1000, (START + 1) * 10**6, (START + 1) * 10**9, 253402300799])
def test_a_number_of_another_unit_than_most_is_rejected(other: int, as_text: bool) -> None:
    times: list[Any] = [START, 0, START + 5, other, START + 9]
    with pytest.raises(ValueError, match=rf"row 4, column timestamp: got '?{other}'?, expected seconds .*1 of 5"):
        read([str(time) for time in times] if as_text else times)


def test_a_row_in_seconds_among_milliseconds_is_rejected() -> None:
    with pytest.raises(ValueError, match=rf"row 2, column timestamp: got {START}, expected milliseconds since 1970"):
        read([START * 1000, START, START * 1000 + 7])


@pytest.mark.parametrize("dtype", [pl.Int64, pl.Int32, pl.String, pl.Float64])
def test_integers_that_are_dates_are_read_as_dates(dtype: Any) -> None:
    times, messages = read(pl.Series([20191001, 20191002]).cast(pl.Int64).cast(dtype))
    assert times == [START, START + 86400]
    assert "are read as dates YYYYMMDD" in messages
    assert read([20191001000000, 20191001000001])[0] == [START, START + 1]
    assert read([20191001, 20191399])[0] == [20191001, 20191399], "not dates: seconds, and reported"
    assert "all times are before 1973" in read([20191001, 20191399])[1]


def test_improbable_times_are_reported() -> None:
    times, messages = read([START, START + 1, 0])
    assert times == [START, START + 1, 0]
    assert "1 of 3 times are before 1973, the first in polars table, row 3: 0" in messages
    assert "all times are before 1973 (1970-01-01 to 1970-01-01)" in read([3, 1])[1]
    assert "times are" not in read([START, START + 1])[1]


@pytest.mark.parametrize("bad", ["-5", "2019-13-01", "01/10/2019", "", "soon", "nan", "inf"])
def test_texts_that_are_no_time_are_rejected_with_their_row(bad: str) -> None:
    with pytest.raises(ValueError, match="row 2, column timestamp: got"):
        read(["2019-10-01" if bad[-1:].isdigit() and bad[0] != "-" else str(START), bad])


def test_times_before_1970_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"row 1, column timestamp: got 1969-12-31, expected a time of 1970 or later"):
        read([date(1969, 12, 31), date(2019, 1, 1)])
    with pytest.raises(ValueError, match="row 2, column timestamp: got -1, expected a time of 1970 or later"):
        read([START, -1])
