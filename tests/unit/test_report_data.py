"""Reports on data: the description agrees with independent computations, and odd logs are described too."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.types import Dataset
from segue.experiment.reporting import report as reporting
from segue.experiment.reporting.describe_log import describe_log
from segue.reports.html import run_charts
from segue.reports.html.charts import themed_spec
from segue.reports.html.layout import page_figures, sort_value
from segue.reports.html.log_sections import log_page
from segue.reports.html.render import render_report
from tests.report_tables import parse_report

alt = pytest.importorskip("altair", reason="altair is not installed: pip install 'segue[report]'")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def make_log(users: int = 30, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        time = 1_600_000_000
        for _ in range(int(rng.integers(1, 40))):
            time += int(rng.choice([0, 20, 1_799, 1_800, 1_801, 90_000]))
            rows.append((user, int(rng.zipf(1.5)) % 50, time, float(rng.integers(1, 6)) / 2))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")


def test_counts_and_long_tail() -> None:
    log = make_log()
    found = describe_log(segue.load(log))
    counts = np.sort(log["item_id"].value_counts()["count"].to_numpy()).astype(np.int64)
    assert (found.users, found.items, found.events) == (30, len(counts), len(log))
    assert found.pairs == log.select("user_id", "item_id").unique().height
    assert found.density == found.pairs / (30 * len(counts))
    assert found.repeats == pytest.approx(1 - found.pairs / len(log))
    differences = np.abs(counts[:, None] - counts).mean()
    assert found.gini == pytest.approx(differences / (2 * counts.mean()))
    assert found.ranks[0] == (1, counts[-1])
    assert found.ranks[-1] == (len(counts), counts[0])
    assert found.lorenz[0] == (0.0, 0.0)
    assert found.lorenz[-1] == (1.0, 1.0)
    assert found.top_shares[10] == pytest.approx(counts[::-1][: round(len(counts) / 10)].sum() / len(log))
    assert counts[::-1][: found.half_items].sum() >= len(log) / 2 > counts[::-1][: found.half_items - 1].sum()
    lengths = log["user_id"].value_counts()["count"].to_numpy()
    assert found.length_quantiles["median"] == np.median(lengths)
    assert sum(one.count for one in found.lengths) == 30
    for one in found.lengths:
        assert one.count == ((lengths >= one.low) & (lengths <= one.high)).sum()


def test_gaps_sessions_and_activity() -> None:
    log = make_log()
    time = describe_log(segue.load(log)).time
    assert time is not None
    gaps, sessions = [], []
    for _, times in log.sort("user_id", "timestamp").group_by("user_id", maintain_order=True):
        own = times["timestamp"].to_numpy()
        gaps += np.diff(own).tolist()
        sessions += [len(part) for part in np.split(own, np.flatnonzero(np.diff(own) > 1800) + 1)]
    assert time.median_gap == np.median(gaps)
    assert time.zero_gaps == pytest.approx(np.mean(np.array(gaps) == 0))
    assert sum(one.count for one in time.gaps) == np.count_nonzero(gaps)
    assert (time.sessions, time.median_session) == (len(sessions), np.median(sessions))
    assert time.single_sessions == pytest.approx(np.mean(np.array(sessions) == 1))
    assert time.unit == "day"
    days = [f"{datetime.fromtimestamp(one, UTC):%Y-%m-%d}" for one in log["timestamp"]]
    counted = dict(zip(*np.unique(days, return_counts=True), strict=True))
    assert {day[:10]: count for day, count in time.activity if count} == counted
    assert sum(count for _, count in time.activity) == len(log)


def test_features_and_texts() -> None:
    log = make_log()
    ids = log["item_id"].unique().sort()
    n = len(ids)
    items = pl.DataFrame(
        {
            "item_id": ids,
            "title": [f"tale number {one}" for one in range(n)],
            "plot": [None if one % 4 == 0 else "word " * one + "end" for one in range(n)],
            "genres": [["War"] if one % 2 else ["War", "Drama"] for one in range(n)],
            "year": [1990 + one % 3 for one in range(n)],
            "code": [f"c{one}" for one in range(n)],
        }
    )
    found = {one.name: one for one in describe_log(segue.load(log, items=items)).item_features}
    assert {name: one.kind for name, one in found.items()} == {
        "title": "text", "plot": "text", "genres": "tags", "year": "number", "code": "mostly distinct",
    }  # fmt: skip
    assert found["plot"].missing == pytest.approx(np.mean(np.arange(n) % 4 == 0))
    words = [one + 1 for one in range(n) if one % 4]
    assert found["plot"].words is not None
    assert found["plot"].words == pytest.approx((np.median(words), np.quantile(words, 0.95), max(words)))
    assert [(one.value, one.count) for one in found["genres"].common] == [("War", n), ("Drama", (n + 1) // 2)]


def test_the_page_states_the_numbers(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = make_log(60)
    log.write_csv(home / "log.csv")
    written = result(capsys, "report", home / "log.csv", "--out", home / "page.html", "--figures", home / "figures")
    page = parse_report((home / "page.html").read_text(encoding="utf-8"))
    text = "".join(page.text)
    assert f"log.csv has {len(log):,} events of 60 users" in text
    assert {"popularity", "lorenz", "history-lengths", "activity", "gaps", "sessions", "values", "baselines"} <= {
        Path(path).stem for path in written["figures"]
    }
    assert len(written["figures"]) == 2 * len(page.labels)
    baselines = segue.baselines(str(home / "log.csv"))
    head, first, *_ = page.tables["Simple baselines, with 95 % intervals"]
    row = dict(zip(head, first, strict=True))
    assert row["baseline"] == f"{baselines.strongest} | strongest"
    assert row["NDCG@10"].startswith(f"{baselines.measured[baselines.strongest].estimates['ndcg@10'].mean:.4f}")
    report = segue.audit(str(home / "log.csv"))
    assert [row[0] for row in page.tables["Findings, the worst first"][1:]] == [one.grade for one in report.findings]
    assert not (home / "runs/test_readings.jsonl").exists()


@pytest.mark.parametrize(
    "log",
    [
        pl.DataFrame({"user_id": ["a"], "item_id": ["x"]}),
        pl.DataFrame({"user_id": ["a"] * 3, "item_id": ["x"] * 3, "timestamp": [5, 5, 5]}),
        pl.DataFrame(
            {"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "x", "y"], "rating": [0.1, 2.0, -3.0, 9.5]}
        ),
        pl.DataFrame({"user_id": range(40), "item_id": range(40), "timestamp": [n * 10**8 for n in range(40)]}),
        make_log().with_columns(pl.col("rating") + pl.Series(np.random.default_rng(0).normal(size=len(make_log())))),
    ],
    ids=["one event", "constant time", "no times", "no gaps", "continuous values"],
)
def test_odd_logs_are_described(log: pl.DataFrame) -> None:
    page = log_page(describe_log(segue.load(log)))
    parsed = parse_report(render_report(page))
    assert len(parsed.labels) == len(page_figures(page))
    assert ("timestamp" in log.columns) == ("Gaps and sessions" in [text for _, text in parsed.headings])
    assert "nan" not in "".join(parsed.text)


def test_charts_fit_the_schema_of_vega_lite() -> None:
    numbers = {"mean": 0.2, "low": 0.1, "high": 0.3, "is_strongest": True}
    rows = [{"name": name, "model": name, "pair": name, "group": "all", **numbers} for name in "ab"]
    tests = [{**row, "difference": 0.2, "p": 0.01, "significant": True} for row in rows]
    curves = [
        {"model": row["model"], "step": step, "value": 1 / step, "part": "training"} for row in rows for step in (1, 2)
    ]
    specs = [
        run_charts.metric_chart("ndcg@10", [{**row, "is_simple": row["name"] == "a"} for row in rows]),
        run_charts.difference_chart("ndcg@10", tests),
        run_charts.group_chart("ndcg@10", [{**row, "queries": 5} for row in rows], ["all"], ["a", "b"]),
        run_charts.training_chart(curves, "Training loss", ["a", "b"]),
        run_charts.cost_chart("ndcg@10", [{**row, "seconds": 1.0, "shown": "1.0 s"} for row in rows], ["a", "b"]),
        *(figure.spec for figure in page_figures(log_page(describe_log(segue.load(make_log()))))),
    ]
    assert len(specs) == 12
    for spec in specs:
        alt.Chart.from_dict(dict(spec), validate=True)


def test_colors_are_replaced_in_the_style_only() -> None:
    spec = {"mark": {"color": "#1f6f8b"}, "data": {"values": [{"name": "#1f6f8b"}]}}
    found = json.loads(themed_spec(spec))
    assert found == {"mark": {"color": "var(--c1)"}, "data": {"values": [{"name": "#1f6f8b"}]}}


def test_empty_data_and_wrong_arguments_are_explained(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = segue.load(make_log(5))
    empty = Dataset("empty", data.users, data.items, data.histories.where(np.zeros(data.histories.size, np.bool_)))
    with pytest.raises(ValueError, match="report: 'empty' has no events to describe"):
        describe_log(empty)
    cases: list[tuple[str, dict[str, Any]]] = [
        ("metric: got 'ndcg@10' for data", {"metric": "ndcg@10"}),
        ("users: got 3 for data", {"users": 3}),
        ("min_user_event: report does not use this setting.*did you mean 'min_user_events'", {"min_user_event": 3}),
    ]
    for message, options in cases:
        with pytest.raises(ValueError, match=message):
            segue.report(make_log(), **options)
    segue.save(segue.train("popular", segue.split(segue.load(make_log()))), home / "saved")
    with pytest.raises(ValueError, match="is a saved model, which has no metrics"):
        segue.report(home / "saved")
    status, _, err = call(capsys, "report", home / "saved")
    assert (status, "is a saved model" in err) == (2, True)


def test_slow_baselines_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(reporting, "MAX_EVENTS", 10)
        page = parse_report(segue.report(make_log(), tmp_path / "page.html").path.read_text(encoding="utf-8"))
    assert "Simple baselines are left out for more than" in "".join(page.text)
    assert "Simple baselines" not in [text for _, text in page.headings]
    split = segue.split(make_log(), "random", valid=0)
    page = parse_report(segue.report(split, tmp_path / "page.html").path.read_text(encoding="utf-8"))
    assert "the split has no validation queries" in "".join(page.text)


def test_cells_are_sorted_by_their_number() -> None:
    expected = {
        "1,234": 1234.0, "−0.5": -0.5, "+0.0120": 0.012, "< 0.0001": 0.0001, "12.5 min": 750.0, "1.25 h": 4500.0,
        "512 MiB": 512.0, "1.50 GiB": 1536.0, "6.3 %": 6.3, "sasrec": None, "cpu x 1": None, "": None,
        "0.1 to 0.2": None, "3 x": 3.0,
    }  # fmt: skip
    assert {text: sort_value(text) for text in expected} == expected
