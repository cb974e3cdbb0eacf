"""``evaluate``, ``compare`` and the command line break metrics down by warm and cold users and items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.bundle import TrainedModel
from segue.core.messages import QualityWarning
from segue.core.types import Split
from segue.experiment.inference.training_data import count_item_events

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=30"
COLD = "split.cold_items=0.3"


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load(DATA), cold_items=0.3, seed=1)


@pytest.fixture(scope="module")
def model(parts: Split) -> TrainedModel:
    return segue.train("popular", parts, baseline="none")


def test_evaluate_ranks_the_items_that_it_is_told_to(model: TrainedModel, parts: Split) -> None:
    trained = np.unique(parts.train.histories.items)
    every, warm, cold = (segue.evaluate(model, parts, items=items) for items in ("all", "warm", "cold"))
    assert [one.metadata["items"] for one in (every, warm, cold)] == [30, 21, 9]
    assert np.isin(warm.top.items[warm.top.lengths >= 10], trained).all()
    assert not np.isin(cold.top.items[cold.top.lengths > 0], trained).all()
    is_cold = ~np.isin(parts.test.targets.items, trained)
    np.testing.assert_array_equal(np.isnan(warm.values["ndcg@10"]), is_cold)
    np.testing.assert_array_equal(np.isnan(cold.values["ndcg@10"]), ~is_cold)
    groups = {group.name: group for group in every.warmth}
    assert groups["cold items"].targets == is_cold.sum()
    np.testing.assert_array_equal(groups["cold items"].values["mrr@5"], every.values["mrr@5"][is_cold])
    assert "among 9 cold items" in repr(cold)


def test_a_model_without_item_features_says_that_it_cannot_order_cold_items(model: TrainedModel, parts: Split) -> None:
    with pytest.warns(QualityWarning, match="Popular reads no item features, so its order of items without training"):
        segue.evaluate(model, parts, items="cold")


def test_thresholds_are_used_and_checked(model: TrainedModel, parts: Split) -> None:
    found = segue.evaluate(model, parts, thresholds={"warm_items": 5, "hot_items": 9, "hot_users": 4})
    definitions = dict(found.warmth_table.select("group", "definition").iter_rows())
    assert definitions["hot items"] == "9 or more training events"
    assert definitions["cold items"] == "fewer than 5 training events"
    assert definitions["hot users"] == "4 or more events in the history"
    with pytest.raises(ValueError, match="thresholds: unknown 'hot_item', did you mean 'hot_items'"):
        segue.evaluate(model, parts, thresholds={"hot_item": 3})
    with pytest.raises(ValueError, match="hot_items"):
        segue.evaluate(model, parts, thresholds={"hot_items": 0})
    with pytest.raises(ValueError, match="items=: got 'new', expected 'all' or 'warm' or 'cold'"):
        segue.evaluate(model, parts, items="new")  # type: ignore[arg-type]
    lists = segue.recommend(model, parts.test, k=10)
    with pytest.raises(ValueError, match="items: got 'warm' for recommendation lists"):
        segue.evaluate(lists, parts, items="warm")
    assert "cold items" in {group.name for group in segue.evaluate(lists, parts).warmth}


def test_training_events_are_matched_by_id(model: TrainedModel, parts: Split) -> None:
    """Other data numbers its items in another way."""
    log = parts.test.targets
    users, items = parts.train.users.decode(parts.test.queries.users[log.rows]), parts.train.items.decode(log.items)
    other = segue.load(pl.DataFrame({"user_id": users, "item_id": items}))
    assert other.items.ids.to_list() != parts.train.items.ids.to_list()
    counts = count_item_events(model, other)
    assert counts is not None
    assert counts.tolist() == [items.count(item) for item in parts.train.items.ids.to_list()]
    own = [group.targets for group in segue.evaluate(model, parts.test).warmth]  # by the log of the model
    assert own == [group.targets for group in segue.evaluate(model, parts).warmth]


def test_compare_tests_models_on_a_group(parts: Split) -> None:
    found = segue.compare(["popular", "random"], parts, metrics=["ndcg@10", "mrr@10"], seeds=(0, 1))
    table = found.warmth_table
    assert table.columns == ["group", "definition", "model", "metric", "mean", "low", "high", "queries"]
    rows = table.filter(group="cold items", metric="ndcg@10")
    assert rows["model"].to_list() == found.ranking
    alone = segue.evaluate(found.models["popular"], parts, metrics=["ndcg@10"]).warmth_table.filter(group="cold items")
    assert rows.filter(model="popular")["mean"].item() == pytest.approx(alone["mean"].item())
    tests = found.test_group("warm items", baseline="popular")
    assert set(tests["metric"]) == {"ndcg@10", "mrr@10"}
    assert len(tests) == 2
    with pytest.raises(ValueError, match="group: unknown 'warm item', did you mean 'warm items'"):
        found.test_group("warm item")
    warm = segue.compare(found.models, parts, metrics=["ndcg@10"], items="warm")
    assert set(warm.warmth_table["group"]) & {"warm items", "cold items"} == {"warm items"}


def test_cross_validation_averages_the_groups_over_folds(capsys: pytest.CaptureFixture[str]) -> None:
    found = segue.cross_validate(["popular", "random"], segue.load(DATA), folds=3, metrics=["ndcg@10", "mrr@10"])
    table = found.warmth_table
    rows = table.filter(group="warm items", metric="mrr@10")
    assert rows["model"].to_list() == found.ranking
    assert rows["folds"].to_list() == [3, 3]
    means = [
        float(np.mean(group.values["mrr@10"]))
        for groups in found.warmth["random"]
        for group in groups
        if group.name == "warm items"
    ]
    assert rows.filter(model="random")["mean"].item() == pytest.approx(np.mean(means))
    status, out, _ = call(capsys, "cross-validate", DATA, "popular", "--folds", "2", "--metrics", "mrr@10")
    assert status == 0
    assert "MRR@10 by warmth of items and users" in out


def test_the_command_line_breaks_metrics_down(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    run = tmp_path / "run"
    trained = result(capsys, "train", "popular", "--data", DATA, "--out", run, "--test", "--set", COLD)
    groups = {group["group"]: group for group in trained["warmth"]}
    assert {"warm items", "cold items", "warm users"} <= groups.keys()
    assert groups["cold items"]["definition"] == "no training event"
    values = pl.read_parquet(run / "warmth.parquet")
    for name, group in groups.items():
        mine = values.filter(group=name)
        assert len(mine) == group["queries"]
        assert mine["ndcg@10"].mean() == pytest.approx(group["metrics"]["ndcg@10"][0], abs=1e-6)
    card = (run / "card.md").read_text()
    assert "| cold items | no training event |" in card
    cold = result(capsys, "evaluate", run, "--items", "cold", "--set", "warm_items=2")
    assert cold["protocol"]["candidates"] == "cold items"
    assert [group["definition"] for group in cold["warmth"] if group["group"] == "cold items"] == [
        "fewer than 2 training events"
    ]
    assert any("says nothing" in warning for warning in cold["warnings"])
    status, out, _ = call(capsys, "evaluate", run, "--items", "warm")
    assert status == 0
    assert "warm items" in out
    assert "By warmth of items and users" in out
    status, _, err = call(capsys, "evaluate", run, "--items", "new")
    assert status == 2
    assert "evaluation.items" in err
    status, _, err = call(capsys, "train", "popular", "--data", DATA, "--items", "cold", "--out", tmp_path / "none")
    assert status == 2
    assert "is cold" in err or "is a cold item" in err


def test_compared_runs_average_the_groups_over_seeds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segue.experiment.compare_runs import _average_seeds
    from segue.reports.page import render_page
    from segue.reports.warmth import warmth_comparison_table

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    records = [
        result(capsys, "train", "random", "--data", DATA, "--seed", str(seed), "--test", "--set", COLD, "--out", folder)
        for seed, folder in enumerate(folders)
    ]
    record, _ = _average_seeds(folders)
    for number, group in enumerate(record["warmth"]):
        means = [one["warmth"][number]["metrics"]["mrr@5"][0] for one in records]
        assert group["metrics"]["mrr@5"][0] == pytest.approx(np.mean(means), abs=2e-6)
    shown = {"data": DATA, "metric": "ndcg@10", "models": {"random": record}, "tests": [], "warnings": []}
    table = warmth_comparison_table(shown)
    assert table is not None
    assert [row[0] for row in table.rows] == [group["group"] for group in record["warmth"]]
    assert "no training event" in render_page(shown)
    (folders[1] / "warmth.parquet").unlink()  # as in a run of an older version
    old, _ = _average_seeds(folders)
    assert old["warmth"] == []
    assert warmth_comparison_table({**shown, "models": {"random": old}}) is None
    assert json.loads((folders[0] / "metrics.json").read_text())["warmth"] == records[0]["warmth"]
