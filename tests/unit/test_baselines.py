"""``segue baselines`` and the simple baseline of comparisons."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.messages import QualityWarning
from segue.core.types import Dataset, Split
from segue.experiment.baselines import strongest
from segue.reports.page import render_page

DATA = "simulated?users=60&items=40&seed=5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


def log(repeats: bool = False, rating: bool = True) -> Dataset:
    """Users who go around a cycle of items, or return to items of their own."""
    rows = [
        (u, u % 4 * 3 + t % 2 if repeats else (u + t) % 12, t + 1, 1 + (u + t) % 5) for u in range(24) for t in range(8)
    ]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    return segue.load(table if rating else table.drop("rating"))


def test_the_baselines_equal_trained_models() -> None:
    parts = segue.split(log())
    found = segue.baselines(parts, metrics=["ndcg@5", "mrr@5"])
    assert found.metrics == ("ndcg@5", "mrr@5")
    assert set(found.measured) == {"popular", "recent_popular", "transitions", "ease"}
    for key, measured in found.measured.items():
        expected = segue.evaluate(segue.train(key, parts, baseline="none"), parts.valid, metrics=["ndcg@5", "mrr@5"])
        assert measured.estimates == expected.estimates
    assert found.strongest == "transitions", "the items form a cycle"
    assert found.measured["transitions"].estimates["ndcg@5"].mean == 1.0
    assert found.table["model"][0] == "transitions"


def test_ratings_are_compared_with_means_and_repeats_with_frequent_items() -> None:
    found = segue.baselines(log(repeats=True), exclude_seen=False)
    assert set(found.measured) == {
        "popular",
        "recent_popular",
        "transitions",
        "frequent",
        "ease",
        "item_and_user_means",
    }
    assert set(found.measured["item_and_user_means"].estimates) == {"mae", "rmse"}
    assert found.ranking[-1] == "item_and_user_means"
    assert found.share_of_targets_in_history == 1.0
    assert found.repeat_share == pytest.approx(4 / 5), "six training events of two items"
    only = segue.baselines(log(), metrics="rmse_by_user")
    assert list(only.measured) == ["item_and_user_means"]
    assert only.metrics == ("rmse_by_user",)
    with pytest.raises(ValueError, match="rmse: the data has no ratings"):
        segue.baselines(log(rating=False), metrics="rmse")


def test_what_is_left_out_is_named() -> None:
    found = segue.baselines(log(rating=False))
    assert found.skipped == {"frequent": "items of the user's history are excluded from the ranking"}
    assert "left out: frequent: items of the user's history" in repr(found)
    untimed = segue.load(pl.DataFrame({"user_id": np.repeat(np.arange(9), 4), "item_id": np.arange(36) % 7}))
    assert segue.baselines(untimed).skipped["recent_popular"] == "the data has no real times"


def test_ease_is_left_out_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.evaluation import simple_baselines

    def full(what: str, numbers: int, instead: str) -> None:
        raise ValueError(f"{what} needs 9.9 GiB, 1.0 GiB are available; {instead}")

    monkeypatch.setattr(simple_baselines, "check_memory", full)
    found = segue.baselines(log())
    assert "ease" not in found.measured
    assert "12 x 12 items needs 9.9 GiB" in found.skipped["ease"]


def test_the_test_part_is_read_only_on_request(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    assert segue.baselines(log()).test_readings == ()
    readings = segue.baselines(log(), test=True).test_readings
    assert {line["run"] for line in readings} == {
        "popular",
        "recent_popular",
        "transitions",
        "ease",
        "item_and_user_means",
    }
    stored = home / "runs" / "test_readings.jsonl"
    found = result(capsys, "baselines", DATA)
    assert found["part"] == "valid"
    assert not stored.exists()
    tested = result(capsys, "baselines", DATA, "--test", "--metrics", "ndcg@10")
    lines = [json.loads(line) for line in stored.read_text().splitlines()]
    assert [line["metrics"]["ndcg@10"] for line in lines if line["run"] == tested["strongest"]] == [
        tested["baselines"][tested["strongest"]]["metrics"]["ndcg@10"][0]
    ]
    assert all("baselines" in line["command"] for line in lines)


def test_the_command_prints_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "baselines", DATA, "--set", "strategy=per_user_ratio", "--include-seen")
    assert status == 0, err
    assert "simple baselines on" in out
    assert "frequent" in out
    assert "strongest by ndcg@10: " in out
    assert "validation targets are in the history of their query" in out
    for setting in ("epochs=3", "smoothing=2", "evaluation.sampled=9", "evaluation.baseline=none", "run.device=cuda"):
        status, _, err = call(capsys, "baselines", DATA, "--set", setting)
        assert status == 2, setting
        assert "not used" in err or "does not use" in err, err


def test_a_part_without_queries_is_an_error() -> None:
    with pytest.raises(ValueError, match="the valid part of the split has no query"):
        segue.baselines(log(), strategy="none")
    with pytest.raises(ValueError, match=r"widht: baselines does not use this setting"):
        segue.baselines(log(), widht=3)


def cyclic() -> Split:
    return segue.split(log())


def test_a_comparison_shows_the_strongest_baseline_and_warns_of_models_below_it() -> None:
    with pytest.warns(
        QualityWarning, match=r"popular is below the strongest simple baseline: ndcg@10 .* of transitions"
    ):
        found = segue.compare(["popular", "random"], cyclic(), metrics=["ndcg@10"])
    assert found.simple_baseline is not None
    assert found.simple_baseline.name == "transitions"
    assert "strongest simple baseline: transitions  ndcg@10 1.0000" in repr(found)
    without: dict[str, Any] = {"evaluation.baseline": "none"}
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        found = segue.compare(["popular", "random"], cyclic(), **without)
    assert found.simple_baseline is None


def test_no_baseline_is_chosen_without_validation() -> None:
    found = segue.compare(["popular", "random"], segue.split(log(), valid=0), metrics=["ndcg@10"])
    assert found.simple_baseline is None


def test_the_errors_of_ratings_are_compared_with_the_means() -> None:
    parts = segue.split(log(), "random")
    assert strongest.choose_baseline(parts, "rmse", True) == "item_and_user_means"
    found = segue.compare({"als@a": {"embedding_dim": 2}, "als@b": {"embedding_dim": 3}}, parts, metrics="rmse")
    assert found.simple_baseline is not None
    assert set(found.simple_baseline.estimates) == {"mae", "rmse"}


def test_the_command_and_its_page_show_the_baseline(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    found = result(capsys, "compare", "simulated?users=200&items=60&seed=1", "popular", "random", "--metric", "ndcg@10")
    baseline = found["baseline"]
    assert baseline["part"] == "test"
    assert any("random is below the strongest simple baseline" in text for text in found["warnings"])
    assert not any("is below a simple baseline" in text for text in found["warnings"])
    page = Path(found["page"]).read_text()
    assert f"The strongest simple baseline, {baseline['model']}, reaches {baseline['ndcg@10']:.4f}." in page
    assert f"{baseline['model']} (simple baseline)" in page
    assert "A dashed line marks the strongest simple baseline" in page
    readings = [json.loads(line) for line in (home / "runs" / "test_readings.jsonl").read_text().splitlines()]
    assert [line["run"] for line in readings] == [baseline["model"]]
    without = {key: value for key, value in found.items() if key != "baseline"}
    assert "simple baseline, " not in render_page(without)


def test_the_setting_chooses_the_baseline_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    models = ("compare", DATA, "popular", "random", "--set")
    assert result(capsys, *models, "evaluation.baseline=random")["baseline"]["model"] == "random"
    assert result(capsys, *models, "evaluation.baseline=none")["baseline"] is None
