"""Benchmark of click-through models: settings of its rows, simple baselines, kept trainings, verdicts of the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

import segue
from benchmarks import click_through
from benchmarks.pages import format_page
from segue.evaluation.click_metrics import auc
from segue.experiment.clicks.click_plan import make_click_plan

CHANGES = [(name, {}) for name in click_through.MODELS] + [
    (name, dict(change)) for name, changes in click_through.TRIED.items() for change in changes
]
CHANGES += [(trial["row"], trial["change"]) for trial in click_through.RECORDED]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_every_row_and_trial_has_valid_settings(name: str, change: dict[str, Any]) -> None:
    key, settings = click_through.MODELS[name]
    assert not change or settings | change != settings
    assignments = [f"{one}={json.dumps(value)}" for one, value in (settings | change).items()]
    plan = make_click_plan({"model": key, "data": "frappe-x1"}, assignments)
    assert plan.examples.min_count == 1


def test_simple_baselines_by_hand() -> None:
    train = pl.DataFrame({"user": [1, 1, 2, 2], "item": [5, 6, 5, 7], "label": [1, 0, 1, 1]})
    test = pl.DataFrame({"user": [1, 1, 3, 2], "item": [5, 6, 5, 9]})
    table: Any = SimpleNamespace
    found = click_through.baseline_scores(table(frame=train), table(frame=test))
    assert found["popularity of the item"].tolist() == [2, 0, 2, 0]
    assert found["the user used the item in training"].tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(found["both"], [1 + 2 / 3, 0, 2 / 3, 0])


def labeled_pairs(n_rows: int, seed: int) -> pl.DataFrame:
    """Return rows whose label depends on the pair of user and item alone, for all but every tenth row."""
    rng = np.random.default_rng(seed)
    user_T, item_T = rng.integers(20, size=(2, n_rows))
    label_T = ((user_T + item_T) % 2) ^ (rng.random(n_rows) < 0.1)
    return pl.DataFrame({"user": user_T, "item": item_T, "label": label_T.astype(np.int64)})


def test_a_regression_on_counts_of_pairs_predicts_labels_of_pairs() -> None:
    train, valid = labeled_pairs(8_000, 0), labeled_pairs(2_000, 1)
    others = {"statistics_prior": 1.0, "l2_features": 1.0}
    areas = []
    for sets in ([["user"], ["item"]], [["user"], ["item"], ["user", "item"]]):
        predict = click_through.train_on_counts(train, valid, 0, target_statistics=sets, **others)
        scores_T = predict(valid.drop("label"))
        assert ((scores_T > 0) & (scores_T < 1)).all()
        areas.append(auc(valid["label"].to_numpy(), scores_T))
    assert areas[0] < 0.6
    assert areas[1] > 0.85  # the noise of the labels allows 0.9


def test_labels_of_training_rows_do_not_enter_their_own_counts() -> None:
    train = labeled_pairs(400, 0).with_columns(user=pl.int_range(400))  # every user has one row
    valid = labeled_pairs(400, 1).with_columns(user=pl.int_range(400))
    predict = click_through.train_on_counts(
        train, valid, 0, target_statistics=[["user"], ["item"]], statistics_prior=1.0, l2_features=1.0
    )
    assert auc(train["label"].to_numpy(), predict(train)) < 0.7  # with their own labels, the user would give it away


def table(n_rows: int, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(3, size=n_rows) for name in click_through.FIELDS}
    return segue.load_examples({**columns, "label": rng.integers(2, size=n_rows)})


def test_trainings_of_an_earlier_commit_are_reused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    parts = segue.split_examples(table(400, 0), "random")
    monkeypatch.setattr(segue, "load_examples", lambda source: source)
    monkeypatch.setattr(segue, "split_examples", lambda source: parts)

    def run(commit: str, models: str, reuse: str | None) -> dict[str, Any]:
        monkeypatch.setattr("benchmarks.finished.describe", lambda: {"commit": commit})
        return click_through.run(SimpleNamespace(models=models, seeds=2, quick=True, reuse=reuse))

    with pytest.raises(ValueError, match=r"--reuse: .*has no trainings of the commit 'abc'"):
        run("abd", "logistic_regression", "abc")
    first = run("abc", "logistic_regression", None)
    assert first["models"]["logistic_regression"]["conditions"][0]["threads"] == torch.get_num_threads()
    found = run("abd", "logistic_regression,logistic_regression@user_item", "abc")
    assert found["models"]["logistic_regression"] == first["models"]["logistic_regression"]
    commits = {name: [one["commit"] for one in row["conditions"]] for name, row in found["models"].items()}
    assert commits == {"logistic_regression": ["abc"], "logistic_regression@user_item": ["abd"]}
    assert [trial["commit"] for trial in found["tried"]] == ["abc", "abd"]
    text = click_through.page(found | {"machine": MACHINE})
    for commit, name in (("abc", "logistic_regression"), ("abd", "logistic_regression@user_item")):
        assert f"* trained by commit {commit}: `{name}`, other settings of `{name}`. Conditions: " in text


MACHINE = {
    "processor": "P", "cores": 2, "memory_gib": 1, "system": "S", "python": "3", "torch": "2", "segue": "0",
    "commit": "c", "command": "python -m benchmarks click_through", "date": "d",
}  # fmt: skip


def row(area: float, loss: float, conditions: dict[str, Any]) -> dict[str, Any]:
    around = [{"mean": mean, "low": mean - 0.001, "high": mean + 0.001} for mean in (area, loss)]
    on_valid = {"valid": [area + 0.001], "valid_log_loss": [loss - 0.01]}
    return {"auc": around[0], "log_loss": around[1], "aucs": [area], **on_valid, "seconds": 3.0} | {
        "conditions": [conditions]
    }


@pytest.fixture(scope="module")
def text() -> str:
    names = ("logistic_regression@pairs", "deepfm", "finalmlp", "gradient_boosting@pairs")
    rows = click_through.COUNTS | click_through.MODELS
    change = {"num_heads": 5, "embedding_l2": 0.02}
    found: dict[str, Any] = {
        "source": "frappe-x1", "rows": {"train": 2, "valid": 1, "test": 1}, "hash": 7, "notes": ["redrawn"], "seeds": 1,
        "settings": {name: rows[name] for name in names},
        "tried": [{"row": "finalmlp", "change": change, "auc": 0.985, "log_loss": 0.17, "commit": "e26ad52"}],
        "baselines": {"both": 0.97},
        "models": {
            "logistic_regression@pairs": row(0.992, 0.084, {"commit": "c", "threads": 1, "load": 40.2}),
            "deepfm": row(0.982, 0.15, {"commit": "e26ad52"}),
            "finalmlp": row(0.9861, 0.15, {"commit": "other"}),
            "gradient_boosting@pairs": row(0.99, 0.131, {"commit": "c", "threads": 1, "load": 3.9}),
        },
        "machine": MACHINE,
    }  # fmt: skip
    return format_page("click_through", found)


def test_the_page_compares_with_published_figures(text: str) -> None:
    assert "* `deepfm`: AUC -0.0022 from its published one (target -0.0010): not met" in text
    best = "`logistic_regression@pairs`, the best on validation, 0.9920 [0.9910, 0.9930]; best published 0.9861: better"
    assert f"* AUC: {best}" in text
    assert "0.0840 [0.0830, 0.0850]; best published 0.1311: better" in text


def test_the_page_has_a_simple_baseline_with_a_log_loss(text: str) -> None:
    assert "| `logistic_regression@pairs` (simple baseline) | 0.9920 [0.9910, 0.9930] |  | 0.0840 [" in text
    assert "have `logistic_regression@pairs` 0.9920 / 0.0840 (AUC / log loss)." in text


def test_the_page_lists_what_was_tried(text: str) -> None:
    assert "| `finalmlp` | none | 0.9871 | 0.1400 |\n| `finalmlp` | num_heads=5, embedding_l2=0.02 | 0.9850 |" in text
    assert "| `finalmlp` | ema=0.99 (recorded earlier, not measured by this command) | 0.9858 | 0.1589 |" in text
    assert "* `finalmlp`: one head of the bilinear form; published: 5, see below" in text
    assert "* `wide_deep`" not in text  # a row that was not measured


def test_the_page_names_the_conditions_of_all_trainings(text: str) -> None:
    load = "1 thread; CPU load of other programs 4 to 40 %, of which 100 % are all cores"
    assert f"commit c: `logistic_regression@pairs`, `gradient_boosting@pairs`. Conditions: {load}" in text
    one_thread = "one thread per training; other programs ran on the machine meanwhile"
    assert f"commit e26ad52: `deepfm`, other settings of `finalmlp`. Conditions: {one_thread}" in text
    assert "commit other: `finalmlp`. Conditions: threads and the load of other programs were not recorded" in text
