"""Reports on runs: the numbers of the page are those of the run folders, and wrong sources are explained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.files import write_json
from segue.experiment.compare import compare_values
from segue.experiment.reporting.users import choose_users
from segue.experiment.run_folder import write_manifest
from tests.report_tables import ReportParser, parse_report
from tests.report_world import HOSTILE_TITLES, HOSTILE_USER, make_more_runs

pytest.importorskip("altair", reason="altair is not installed: pip install 'segue[report]'")

ALL = "All metrics, with 95 % intervals"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_more_runs()
    monkeypatch.setenv("SEGUE_HOME", str(folder))
    return folder


@pytest.fixture
def copied(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs that a test may change."""
    shutil.copytree(home / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path / "runs"


def read_record(home: Path, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "runs" / run / "metrics.json").read_text())
    return found


def write_page(tmp_path: Path, *runs: str, **options: Any) -> ReportParser:
    written = segue.report(list(runs), tmp_path / "page.html", **{"users": 0, **options})
    return parse_report(written.path.read_text(encoding="utf-8"))


def cells(page: ReportParser, caption: str = ALL) -> dict[str, dict[str, str]]:
    """Return the cells of a table by the name of the row and the column."""
    head, *rows = page.tables[caption]
    return {row[0].split(" | ")[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_metrics_and_intervals_are_those_of_the_run(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "gru", "knn")
    for run, name in (("gru", "gru4rec"), ("knn", "item_knn")):
        record = read_record(home, run)
        row = cells(page)[name]
        assert row["NDCG@10"] == "{:.4f} | {:.4f}–{:.4f}".format(record["ndcg@10"], *record["intervals"]["ndcg@10"])
        assert row["HitRate@5"] == "{:.4f} | {:.4f}–{:.4f}".format(
            record["hit_rate@5"], *record["intervals"]["hit_rate@5"]
        )
    cost = cells(page, "Time by stage, memory and parameters")
    assert cost["gru4rec"]["parameters"] == f"{read_record(home, 'gru')['cost']['parameters']:,}"


def test_seeds_are_averaged(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "gru", "gru-1", "knn")
    mean = np.mean([read_record(home, run)["ndcg@10"] for run in ("gru", "gru-1")])
    row = cells(page)["gru4rec"]
    assert row["NDCG@10"].startswith(f"{mean:.4f}")
    assert row["model"] == "gru4rec | mean of 2 seeds"


def test_the_strongest_simple_baseline_is_marked(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "knn", "popular")
    baseline = read_record(home, "knn")["baseline"]
    rows = cells(page)
    assert rows[baseline["model"]]["model"] == f"{baseline['model']} | strongest simple baseline"
    assert rows[baseline["model"]]["NDCG@10"].startswith(f"{baseline['ndcg@10']:.4f}")
    assert rows["popular"]["model"] == "popular | simple baseline", "also as a run"
    assert rows["item_knn"]["model"] == "item_knn"
    assert set(rows) == {"item_knn", "popular", "recent_popular", "transitions", "ease"}


def test_paired_differences_are_those_of_the_values(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "gru", "knn", "popular")
    tables = {run: pl.read_parquet(home / "runs" / run / "values.parquet") for run in ("gru", "knn", "popular")}
    names = {"gru": "gru4rec", "knn": "item_knn", "popular": "popular"}
    values = {names[run]: {"ndcg@10": table["ndcg@10"].to_numpy()} for run, table in tables.items()}
    found = {}
    for test in compare_values(values, "ndcg@10"):
        pair = (test.first, test.second) if test.difference >= 0 else (test.second, test.first)
        found[" − ".join(pair)] = (f"+{abs(test.difference):.4f}", f"{test.p_holm:.4f}")
    rows = cells(page, "Paired tests of NDCG@10")
    assert {name: (row["difference"], row["p (Holm)"]) for name, row in rows.items()} == found
    assert len(cells(page, "Paired tests of NDCG@10 2")) == 3, "against the strongest simple baseline"


def test_groups_by_popularity_and_length(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "knn")
    groups = {one["group"]: one for one in read_record(home, "knn")["warmth"]}
    rows = cells(page, "NDCG@10 by popularity of the next item")
    assert set(rows) == {"head items", "middle items", "tail items"}
    for name, row in rows.items():
        assert row["item_knn"].startswith(f"{groups[name]['metrics']['ndcg@10'][0]:.4f}")
    values = pl.read_parquet(home / "runs/knn/values.parquet")["ndcg@10"].to_numpy()
    lengths = cells(page, "NDCG@10 by length of the history")
    counts = np.array([int(row["queries"]) for row in lengths.values()])
    means = np.array([float(row["item_knn"].split(" | ")[0]) for row in lengths.values()])
    assert counts.sum() == len(values)
    assert (counts * means).sum() / counts.sum() == pytest.approx(values.mean(), abs=1e-4)


def test_runs_of_other_protocols_are_in_other_tables(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "gru", "random", "tested", "als")
    first, second, third = (cells(page, caption) for caption in (ALL, f"{ALL} 2", f"{ALL} 3"))
    assert set(first) & {"gru4rec", "item_knn", "als"} == {"gru4rec", "als"}
    assert set(second) & {"gru4rec", "item_knn", "als"} == {"item_knn"}
    assert second["item_knn"]["NDCG@10"].startswith(f"{read_record(home, 'random')['ndcg@10']:.4f}")
    assert third["item_knn"]["NDCG@10"].startswith(f"{read_record(home, 'tested')['ndcg@10']:.4f}")
    assert (1, "4 runs in 3 groups") in page.headings
    assert [text for level, text in page.headings if level == 2] == [
        "world, leave one out, validation part",
        "world, random, validation part",
        "world, leave one out, test part",
    ]


def test_reading_the_test_part_again_is_recorded(copied: Path, tmp_path: Path) -> None:
    (copied / "test_readings.jsonl").unlink(missing_ok=True)
    write_page(tmp_path, "knn")
    assert not (copied / "test_readings.jsonl").exists(), "only validation was read"
    page = write_page(tmp_path, "tested")
    lines = [json.loads(line) for line in (copied / "test_readings.jsonl").read_text().splitlines()]
    assert [(line["run"], line["command"]) for line in lines] == [("transitions", "segue report")]
    assert set(cells(page)) == {"item_knn", "transitions"}, "the baseline that was chosen on validation"


def test_errors_order_models_from_the_lowest(tmp_path: Path) -> None:
    page = write_page(tmp_path, "als")
    assert list(cells(page))[:2] == ["item_and_user_means", "als"]
    (found,) = [text for text in page.text if text.startswith("als reaches RMSE")]
    assert "the difference of +" in found
    assert "not significant" in found
    ranked = write_page(tmp_path, "als", metric="ndcg@10")
    assert any(text.startswith("als reaches NDCG@10") for text in ranked.text)


def test_data_that_is_gone_leaves_the_recorded_baseline(copied: Path, tmp_path: Path) -> None:
    record = json.loads((copied / "knn/metrics.json").read_text())
    write_json(copied / "knn/metrics.json", {**record, "data_folder": str(tmp_path / "gone")})
    page = write_page(tmp_path, "knn", users=3)
    assert set(cells(page)) == {"item_knn", record["baseline"]["model"]}
    assert any("because the data is not available: knn: its prepared data is gone" in text for text in page.text)
    assert any("its values per query are not available" in text for text in page.text)
    assert "NDCG@10 by length of the history" not in page.tables


def test_users_have_titles_lists_and_reasons(home: Path, tmp_path: Path) -> None:
    page = write_page(tmp_path, "knn", "gru", users=5)
    lists = pl.read_parquet(home / "runs/knn/lists.parquet")
    users = [text.removeprefix("User ").strip() for level, text in page.headings if text.startswith("User ")]
    assert len(users) == len(set(users)) == 5
    text = "\n".join(page.text)
    items = lists.filter(pl.col("user") == users[0])["items"][0].to_list()
    titles = [HOSTILE_TITLES[int(one)] if int(one) < 4 else f"The tale of item {one}" for one in items[:3]]
    assert [title for title in titles if title in text] == titles
    assert "Why item_knn recommends the first items" in text or "Why gru4rec recommends the first items" in text
    assert "its score is raised by" in text


def test_users_are_chosen_by_the_stated_rule() -> None:
    lengths, values = np.array([5, 1, 9, 3, 7, 7]), np.array([0.0, 0.1, 0.2, 1.0, 0.0, np.nan])
    chosen = choose_users(lengths, values, "ndcg@10", 6)
    assert list(chosen.items())[:3] == [(1, "shortest history"), (4, "median history"), (2, "longest history")]
    assert list(chosen.items())[3:5] == [(3, "among the best NDCG@10"), (0, "among the worst NDCG@10")]
    assert choose_users(lengths, values, "ndcg@10", 6) == chosen
    assert list(choose_users(lengths, values, "rmse", 4).items())[3] == (0, "among the best RMSE")
    assert len(choose_users(lengths, values, "ndcg@10", 50)) == 6
    assert choose_users(lengths, values, "ndcg@10", 0) == {}


def test_nothing_in_the_data_becomes_markup(tmp_path: Path) -> None:
    path = segue.report(["gru", "knn"], tmp_path / "page.html", users=8).path
    html = path.read_text(encoding="utf-8")
    page = parse_report(html)
    assert not page.unsafe
    text = "".join(page.text)
    assert all(title in text for title in HOSTILE_TITLES)
    assert f"User {HOSTILE_USER}" in text
    assert "a note: <script>window.attacked = 5</script>" in text
    assert "</pre><script>window.attacked = 6</script>" in text
    assert not [script for script in page.scripts if "window.attacked" in script and not script.startswith("{")]
    figures = len(page.labels)
    assert len(page.scripts) == figures + 2
    assert 'content="default-src &#39;none&#39;; script-src &#39;sha256-' in html
    assert segue.report(["gru", "knn"], path, users=8).path.read_text(encoding="utf-8") == html, "deterministic"


def test_figures_are_written(tmp_path: Path) -> None:
    written = segue.report(["gru", "knn"], tmp_path / "page.html", users=0, figures=tmp_path / "figures")
    page = parse_report(written.path.read_text(encoding="utf-8"))
    names = {path.stem for path in written.figures}
    assert {"metric-ndcg-10", "differences", "popularity", "length", "training-loss", "cost"} <= names
    assert len(written.figures) == 2 * len(page.labels) == 2 * len(page.captions)
    for path in written.figures:
        assert path.read_bytes().startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")
    assert all(label.strip() for label in page.labels)


def test_headings_have_no_gaps(tmp_path: Path) -> None:
    for runs in (["knn"], ["knn", "random"]):
        levels = [level for level, _ in write_page(tmp_path, *runs, users=2).headings]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert max(np.diff(levels)) <= 1


def test_wrong_sources_are_explained(copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        status, _, err = call(capsys, "report", *arguments)
        assert status == 2
        return err

    assert "no run 'knm', did you mean 'knn'?" in error("knn", "knm")
    assert "it is no run either, did you mean 'knn'?" in error("knm")
    assert "nothing was held out for validation" in error("none")
    assert "metric: 'ndcg@7' was not computed by any of the runs, did you mean 'ndcg@5'?" in error(
        "knn", "--metric", "ndcg@7"
    )
    assert "metric: 'rmse' was not computed for item_knn" in error("als", "knn", "--metric", "rmse")
    assert "--set: not used for runs" in error("knn", "--set", "min_user_events=2")
    assert "--users: used only for runs" in error(str(tmp_path), "--users", "3")
    assert "expected a file that ends with .html" in error("knn", "--out", str(tmp_path / "page.pdf"))
    (copied / "knn/values.parquet").write_bytes(b"PAR1 broken")
    assert "values.parquet: cannot be read as Parquet" in error("knn")
    (copied / "knn/values.parquet").unlink()
    assert "knn: has no values.parquet with the metrics per user" in error("knn")
    (copied / "gru/history.jsonl").write_text('{"step": 1}\nbroken\n')
    assert "history.jsonl: line 2 is not a JSON object" in error("gru")
    write_json(copied / "popular/metrics.json", {"model": "popular"})
    assert "metrics.json: expected the record of a run, it lacks data, seed" in error("popular")
    (copied / "als/manifest.json").unlink()
    assert "als: the run is not finished" in error("als")


def test_runs_with_other_users_are_not_mixed(copied: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(copied / "knn/values.parquet")
    table.reverse().write_parquet(copied / "knn/values.parquet")
    write_manifest(copied / "knn")
    with pytest.raises(ValueError, match="its users differ from those of"):
        write_page(tmp_path, "gru", "knn")


def test_files_that_are_no_report_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = tmp_path / "thesis.html"
    foreign.write_text("<p>text")
    with pytest.raises(ValueError, match="exists and is not a report of Segue"):
        segue.report("knn", foreign)
    assert foreign.read_text() == "<p>text"
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match="is a folder, expected a file"):
        segue.report("knn", tmp_path / "folder.html")
    with pytest.raises(ValueError, match=r"figures: .* is a file, expected a folder"):
        segue.report("knn", tmp_path / "page.html", figures=foreign)
    found = result(capsys, "report", "knn", "--users", "0")
    assert Path(found["page"]).parent == Path(make_more_runs() / "runs/reports")
    assert found["title"] == "On world, item_knn is worse than transitions, a simple baseline"
    assert segue.report("knn", found["page"], users=0).path == Path(found["page"]), "a report is replaced"
