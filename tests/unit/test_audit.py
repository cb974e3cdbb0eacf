"""``segue audit`` finds every planted fault of a log and a split, and explains it by ids of the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.types import Dataset, Events, HeldOut, Split
from segue.experiment.audit.audit import audit_split
from segue.experiment.audit.findings import AuditReport, Finding

DATA = "simulated?users=40&items=30&seed=2"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def table() -> pl.DataFrame:
    """Events of 20 users, all at different times, and no user like another."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{i}", 1_600_000_000 + 1_000 * (u + 20 * t))
        for u in range(20)
        for t, i in enumerate(rng.permutation(30)[:8])
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def sound() -> Split:
    return segue.split(segue.load(table()))


def only(report: AuditReport) -> Finding:
    (finding,) = report.findings
    return finding


def test_a_sound_log_and_split_are_clean() -> None:
    report = segue.audit(segue.load(table()))
    assert report.is_clean
    assert report.exit_status == 0
    assert repr(report).startswith("table: nothing found in 14 checks (users: 20, items: 30, events: 160")
    assert "\n" not in repr(report)
    assert segue.audit(sound()).is_clean


def with_duplicates(log: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([log, log[[0, 0, 9]]])


def with_a_copied_user(log: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([log, log.filter(pl.col("user_id") == "u3").with_columns(user_id=pl.lit("copy of u3"))])


def with_one_time(log: pl.DataFrame) -> pl.DataFrame:
    return log.with_columns(timestamp=pl.lit(1_600_000_000))


def with_a_default_time(log: pl.DataFrame) -> pl.DataFrame:
    number = pl.int_range(pl.len())
    return log.with_columns(timestamp=pl.when(number % 3 > 0).then(pl.lit(0)).otherwise(pl.col("timestamp")))


def with_ties(log: pl.DataFrame) -> pl.DataFrame:
    """The last two events of ``u1`` have the same time."""
    last = int(log.filter(pl.col("user_id") == "u1")["timestamp"].to_numpy().max())
    shifted = pl.col("timestamp") == last - 20_000
    return log.with_columns(timestamp=pl.when((pl.col("user_id") == "u1") & shifted).then(last).otherwise("timestamp"))


@pytest.mark.parametrize(
    ("change", "check", "grade", "count", "example"),
    [
        (with_duplicates, "duplicate_events", "warning", 3, {"user": "u0"}),
        (with_a_copied_user, "duplicate_users", "warning", 2, {"user": "copy of u3", "same as": "u3", "events": 8}),
        (with_one_time, "constant_times", "error", 160, {"user": "u0", "time": "2020-09-13T12:26:40Z"}),
        (with_a_default_time, "constant_times", "warning", 106, {"user": "u0", "time": "1970-01-01T00:00:00Z"}),
        (with_ties, "tied_targets", "note", 1, {"user": "u1"}),
    ],
)
def test_faults_of_the_log_are_found(
    change: Callable[[pl.DataFrame], pl.DataFrame], check: str, grade: str, count: int, example: dict[str, Any]
) -> None:
    report = segue.audit(segue.load(change(table())))
    finding = next(one for one in report.findings if one.check == check)
    assert (finding.grade, finding.count) == (grade, count)
    assert example.items() <= finding.example.items()
    assert report.exit_status == (grade == "error")
    assert f"{grade}: {check}: " in repr(report)
    assert finding.action in repr(report)


def test_many_tied_targets_are_a_warning() -> None:
    day = table().with_columns(timestamp=pl.col("timestamp") // 86_400 * 86_400)
    findings = [one for one in segue.audit(segue.load(day)).findings if one.check == "tied_targets"]
    assert {one.grade for one in findings} == {"warning"}
    assert "the order of the file decides" in findings[0].text
    random = segue.audit(segue.load(day), strategy="random")
    assert not [one for one in random.findings if one.check == "tied_targets"], "order does not matter"


def with_targets_in_training(parts: Split) -> Split:
    """Training has every event, the histories do not."""
    return replace(parts, train=segue.load(table()))


def with_answers(parts: Split) -> Split:
    """The history of the first test query ends with its target."""
    queries, targets = parts.test.queries, parts.test.targets
    history = queries.history
    assert history.times is not None
    assert targets.times is not None
    at = int(history.offsets[1])
    longer = Events(
        history.offsets + np.append(0, np.ones(len(queries), np.int64)),
        np.insert(history.items, at, targets.items[0]),
        times=np.insert(history.times, at, targets.times[0]),
    )
    return replace(parts, test=replace(parts.test, queries=replace(queries, history=longer)))


def with_future_events(parts: Split) -> Split:
    """The test targets are earlier than the histories."""
    targets = parts.test.targets
    assert targets.times is not None
    return replace(parts, test=replace(parts.test, targets=replace(targets, times=targets.times - 500_000)))


def with_late_training(_: Split) -> Split:
    """The target of ``u0`` is earlier than training events of other users, which a global cut in time excludes."""
    early = pl.col("timestamp") - pl.when(pl.col("user_id") == "u0").then(100_000).otherwise(0)
    parts = segue.split(segue.load(table().with_columns(timestamp=early)))
    return replace(parts, metadata={**parts.metadata, "strategy": "global_temporal"})


def with_short_histories(parts: Split) -> Split:
    queries = parts.test.queries
    return replace(parts, test=replace(parts.test, queries=replace(queries, history=queries.history.last(2))))


def with_validation_on_test(parts: Split) -> Split:
    return replace(parts, valid=parts.test)


@pytest.mark.parametrize(
    ("change", "check", "count"),
    [
        (with_targets_in_training, "targets_in_training", 20),
        (with_answers, "targets_in_training", 1),
        (with_future_events, "future_events", 20),
        (with_late_training, "future_events", 1),
        (with_short_histories, "incomplete_histories", 100),
        (with_validation_on_test, "tuning_on_test", 20),
    ],
)
def test_faults_of_a_split_are_errors(change: Callable[[Split], Split], check: str, count: int) -> None:
    parts = sound()
    report = segue.audit(change(parts))
    finding = next(one for one in report.findings if one.check == check)
    assert finding.grade == "error"
    assert finding.count >= count
    assert report.exit_status == 1
    assert finding.example["user"] in parts.train.users.ids.to_list()
    assert finding.example["item"] in parts.train.items.ids.to_list()


def test_queries_of_another_dataset_are_an_error() -> None:
    parts = sound()
    wrong = replace(parts.test, targets=replace(parts.test.targets, items=parts.test.targets.items + 100))
    finding = segue.audit(replace(parts, test=wrong)).findings[0]
    assert (finding.check, finding.grade, finding.count) == ("invalid_codes", "error", 20)


def untimed(rows: list[list[int]]) -> Dataset:
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return segue.load(pl.DataFrame({"user_id": users, "item_id": np.concatenate(rows)}))


def test_without_times_long_equal_histories_are_duplicates() -> None:
    rng = np.random.default_rng(1)
    rows = [rng.permutation(20)[:12].tolist() for _ in range(6)]
    assert segue.audit(untimed(rows)).is_clean
    finding = only(segue.audit(untimed([*rows, rows[2]])))
    assert (finding.check, finding.count) == ("duplicate_users", 2)
    assert finding.example == {"user": "2", "same as": "6", "events": 12}
    short = [row[:9] for row in rows]
    assert segue.audit(untimed([*short, short[0]])).is_clean, "by chance"


def test_validation_items_chosen_again_are_no_fault() -> None:
    parts = segue.split(untimed([[1, 2, 3, 3], [3, 2, 1, 5]]))
    assert isinstance(parts.valid, HeldOut)
    assert {one.check for one in segue.audit(parts).findings} == {"excluded_targets"}
    assert segue.audit(replace(parts, valid=parts.test)).exit_status == 1


def test_the_worst_finding_comes_first_and_equal_ones_once() -> None:
    note, error = (Finding("a", grade, "text", "do", 1) for grade in ("note", "error"))
    report = AuditReport.of("x", [note, error, note], ["a", "b", "a"])
    assert [one.grade for one in report.findings] == ["error", "note"]
    assert report.checks == ("a", "b")
    assert repr(report).splitlines()[0] == "x: 1 error, 1 note in 2 checks ()"
    assert report.table["grade"].to_list() == ["error", "note"]
    assert report.table.columns == ["grade", "check", "count", "text", "action"]


def test_the_exit_status_and_the_output_of_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, out, err = call(capsys, "audit", DATA)
    assert (status, len(out.splitlines())) == (0, 1), err
    assert "nothing found" in out
    assert result(capsys, "audit", DATA)["clean"] is True
    broken, ties = tmp_path / "broken.csv", tmp_path / "ties.csv"
    with_one_time(table()).write_csv(broken)
    with_ties(table()).write_csv(ties)
    status, out, _ = call(capsys, "audit", str(broken))
    assert status == 1
    assert "error: constant_times: all 160 events have the same time" in out
    assert call(capsys, "audit", str(ties))[0] == 0
    status, out, _ = call(capsys, "audit", str(broken), "--json")
    assert status == 1
    assert '"check": "constant_times"' in out
    assert call(capsys, "audit", str(broken), "--set", "split.strategy=random")[0] == 0
    for arguments, message in (
        ((DATA, "none.csv"), "'simulated?users=40&items=30&seed=2' is not a run; expected one DATA"),
        ((DATA, "--set", "epochs=3"), "epochs"),
        (("no-such-data",), "no-such-data"),
        ((DATA, "--set", "evaluation.ks=[3]"), "evaluation.ks: not used by segue audit"),
    ):
        status, _, err = call(capsys, "audit", *arguments)
        assert status == 2, arguments
        assert message in err


def test_settings_belong_to_data_that_is_split_here() -> None:
    with pytest.raises(ValueError, match="strategy: audit uses settings only for data"):
        segue.audit(sound(), strategy="random")
    with pytest.raises(ValueError, match="epochs: audit does not use this setting"):
        segue.audit(DATA, epochs=3)
    with pytest.raises(ValueError, match="expected runs"):
        segue.audit([DATA, DATA])


def test_the_log_of_a_split_may_be_its_training_part() -> None:
    parts = sound()
    assert audit_split(parts, parts.train, "log").target == "log"
