"""The audit finds repeated rows without times, clones in another order, empty parts and excluded targets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.types import Events, Split
from segue.experiment.audit.audit import audit_split
from segue.experiment.audit.findings import Finding


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path / "home"))
    return tmp_path


def rows(n_users: int = 12) -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.permutation(20)[:6].tolist() for _ in range(n_users)]


def untimed(histories: list[list[int]], **columns: list[object]) -> pl.DataFrame:
    users = np.repeat(np.arange(len(histories)), [len(row) for row in histories])
    return pl.DataFrame({"user_id": users, "item_id": np.concatenate(histories), **columns})


def find(check: str, data: object) -> Finding | None:
    return next((one for one in segue.audit(data).findings if one.check == check), None)


def test_repeated_rows_without_times_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = untimed(rows())
    assert segue.audit(segue.load(table)).is_clean
    doubled = pl.concat([table, table[[0, 7, 7]]])
    finding = find("duplicate_events", segue.load(doubled))
    assert finding is not None
    assert (finding.grade, finding.count) == ("warning", 3)
    assert (
        "3 of 75 events (4.00%) repeat an event of the same user, item and action with the same value" in finding.text
    )
    assert finding.example.keys() == {"user", "item"}
    doubled.write_csv(tmp_path / "log.csv")
    assert "duplicate_events" in [one["check"] for one in result(capsys, "audit", tmp_path / "log.csv")["findings"]]


def test_rows_with_another_value_or_context_are_no_repetition() -> None:
    histories = [[*row, row[0]] for row in rows()]
    n = sum(map(len, histories))
    rated = untimed(histories, rating=[float(number % 5 + number // 7 % 2) for number in range(n)])
    assert find("duplicate_events", segue.load(rated)) is None
    places = untimed(histories, device=[f"d{number % 7}" for number in range(n)])
    assert find("duplicate_events", segue.load(places, columns={"context": ["device"]})) is None
    assert find("duplicate_events", segue.load(places)) is not None


def test_clones_whose_equal_times_are_in_another_order_are_found() -> None:
    """A user's events of one moment are in another order in the copy."""
    times = [100, 100, 100, 200, 300, 400]
    histories = rows()
    table = untimed(histories).with_columns(
        timestamp=pl.Series([time + 1000 * user for user in range(12) for time in times])
    )
    clone = table.filter(pl.col("user_id") == 4)[[2, 0, 1, 3, 4, 5]].with_columns(user_id=pl.lit(99, pl.Int64))
    data = segue.load(pl.concat([table, clone]))
    finding = find("duplicate_users", data)
    assert finding is not None
    assert (finding.count, finding.example) == (2, {"user": "4", "same as": "99", "events": 6})
    assert ", in 1 group, so" in finding.text
    moved = clone.with_columns(item_id=pl.col("item_id").reverse())
    assert find("duplicate_users", segue.load(pl.concat([table, moved]))) is None, "the times of the items differ"


def test_a_part_without_queries_is_an_error() -> None:
    pairs = segue.load(untimed([[1, 2], [2, 3], [3, 1]]))
    report = segue.audit(pairs)
    (finding,) = [one for one in report.findings if "test" in one.text]
    assert (finding.check, finding.grade) == ("empty_parts", "error")
    assert "the test part has no query" in finding.text
    assert report.exit_status == 1
    assert segue.audit(pairs, strategy="none").is_clean, "nothing is to be held out"
    parts = segue.split(segue.load(untimed(rows())))
    no_query = parts.test.queries.take(np.zeros(0, np.int64))
    nothing = Events(np.zeros(1, np.int64), np.zeros(0, np.int32))
    by_hand = Split(parts.train, parts.valid, replace(parts.test, queries=no_query, targets=nothing), {})
    assert [one.check for one in segue.audit(by_hand).findings] == ["empty_parts"]


def test_targets_that_the_ranking_leaves_out_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    histories = [[*row, row[0]] if user % 3 == 0 else row for user, row in enumerate(rows())]
    times = [10 * user + 1000 * step for user, row in enumerate(histories) for step in range(len(row))]
    data = segue.load(untimed(histories, timestamp=list(times)))
    finding = find("excluded_targets", data)
    assert finding is not None
    assert (finding.grade, finding.count, finding.example["user"]) == ("warning", 4, "0")
    assert "4 of 12 test targets (33.3%) are items of the history of their query" in finding.text
    assert audit_split(segue.split(data), data, exclude_seen=False).is_clean
    assert audit_split(segue.split(data), data, exclude_seen=3).is_clean, "the first item is not among the newest three"
    few = [[*row, row[0]] if user == 0 else row for user, row in enumerate(rows())]
    assert find("excluded_targets", segue.load(untimed(few))) is None, "less than a tenth"


def test_the_exclusion_of_a_run_is_that_of_its_evaluation(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    histories = [[*row, row[0]] for row in rows()]
    untimed(histories, timestamp=[1000 * s + u for u, row in enumerate(histories) for s in range(len(row))]).write_csv(
        log
    )
    for run, options in (("removed", ()), ("ranked", ("--protocol", "repeats"))):
        status, _, err = call(capsys, "train", "popular", "--data", log, "--out", tmp_path / run, *options)
        assert status == 0, err
    found = {
        run: [one["check"] for one in result(capsys, "audit", tmp_path / run)["findings"]]
        for run in ("removed", "ranked")
    }
    assert "excluded_targets" in found["removed"]
    assert "excluded_targets" not in found["ranked"]


def test_constant_times_name_the_time_and_what_it_decides() -> None:
    table = untimed(rows()).with_columns(timestamp=pl.lit(1_600_000_000))
    finding = find("constant_times", segue.load(table))
    assert finding is not None
    assert finding.text == (
        "all 72 events have the same time, 2020-09-13T12:26:40Z, probably a default value or a date without time of "
        "day, so the order of the file decides which of them is the last one of a user"
    )


@pytest.mark.parametrize("target", ["runs/nothing", "./nothing", "runs/nothing.csv"])
def test_a_path_of_nothing_is_reported_as_such(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = call(capsys, "audit", target)
    assert status == 2
    assert f"there is no run, saved model, file or folder '{target}'" in err
    assert "segue runs" in err
    with pytest.raises(ValueError, match="there is no run, saved model, file or folder"):
        segue.audit(target)
