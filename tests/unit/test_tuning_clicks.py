"""Tuning of click-through models: validation alone as the judge, recipes that repeat a trial, budgets, errors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.config import Choices, search_space
from segue.core.examples.click_model import ClickModel
from segue.core.registry import builtin_models, model_class
from segue.data.examples.splits import ExampleSplit
from segue.experiment.clicks.click_plan import ClickPlan, changed_values, make_click_plan, read_click_plan
from segue.experiment.tuning.space import apply_values, find_space, read_values
from segue.training.settings import Training

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

ROWS = 600


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """Clicks that depend on pairs of user and item, and on a number."""
    rng = np.random.default_rng(0)
    users, items, x = rng.integers(0, 10, ROWS), rng.integers(0, 8, ROWS), rng.normal(size=ROWS)
    logits = 2 * rng.normal(size=(10, 8))[users, items] + x
    columns = {"label": rng.random(ROWS) < 1 / (1 + np.exp(-logits)), "user": users, "item": items, "x": x}
    return pl.DataFrame(columns).with_columns(pl.col("user", "item").cast(pl.String))


@pytest.fixture(scope="module")
def split(table: pl.DataFrame) -> ExampleSplit:
    return segue.split_examples(table, "random")


@pytest.fixture
def path(table: pl.DataFrame, tmp_path: Path) -> Path:
    table.write_csv(tmp_path / "shown.csv")
    return tmp_path / "shown.csv"


def auc_of(model: ClickModel) -> float:
    assert model.metadata is not None
    return float(model.metadata["valid"]["metrics"]["auc"][0])


# Spaces


@pytest.mark.parametrize("key", sorted(key for key in builtin_models() if model_class(key).reads_examples))
def test_every_point_of_a_space_is_valid_for_tables(key: str) -> None:
    plan = make_click_plan({"model": key, "data": "shown.csv"})
    space, notes = find_space(plan)
    assert not notes
    assert not {name.partition(".")[2] for name in space} & set(model_class(key).settings_of_logs)
    assert ("training.batch_size" in space) == ("training.learning_rate" in space)
    for pick in (0, -1):
        values = {n: one.values[pick] if isinstance(one, Choices) else (one.low, one.high)[pick]
                  for n, one in space.items()}  # fmt: skip
        assert read_values(apply_values(plan, values), space) == values
    assert all(value in space[name] for name, value in read_values(plan, space).items()), "the defaults are inside"


def test_batches_of_tables_are_larger_than_those_of_logs() -> None:
    space, _ = find_space(make_click_plan({"model": "deepfm", "data": "shown.csv"}))
    of_logs = search_space(Training)["batch_size"]
    of_tables = space["training.batch_size"]
    assert isinstance(of_logs, Choices)
    assert isinstance(of_tables, Choices)
    assert not set(of_logs.values) & set(of_tables.values)


def test_a_given_setting_is_not_searched(split: ExampleSplit) -> None:
    found = segue.tune_clicks({"deepfm": {"dropout": 0.3, "embedding_dim": 4}}, split, trials=2, epochs=1)
    assert not {"model.dropout", "model.embedding_dim", "training.epochs"} & found.best.space.keys()
    assert found.best.settings["dropout"] == 0.3
    assert found.best.settings["embedding_dim"] == 4


# Validation alone


@pytest.mark.parametrize("key", ["ctr_factorization_machine", "logistic_regression", "gradient_boosting"])
def test_a_trial_is_a_training_and_the_recipe_repeats_the_best(key: str, split: ExampleSplit) -> None:
    small: dict[str, Any] = {"iterations": 20} if key == "gradient_boosting" else {}
    small = {"epochs": 3, "learning_rate": 0.01} if key == "ctr_factorization_machine" else small
    tuned = segue.tune_clicks(key, split, trials=3, **small).best
    for one in tuned.trials:
        own = {name.partition(".")[2]: value for name, value in (one.values or {}).items()}
        assert one.mean == pytest.approx(auc_of(segue.train_clicks(key, split, **{**small, **own})))
    assert tuned.best.mean == max(one.mean or 0.0 for one in tuned.trials)
    assert tuned.best.low is not None
    assert tuned.best.low < (tuned.best.mean or 0.0)
    again = segue.train_clicks(key, split, **tuned.settings)
    assert auc_of(again) == pytest.approx(tuned.best.mean)
    plan = read_click_plan(tuned.recipe, {"data": split.train.name})
    assert isinstance(tuned.plan, ClickPlan)
    assert changed_values(plan) == changed_values(tuned.plan)
    assert plan.split == split.settings, "the recipe splits as the trials did"


def test_the_test_part_is_not_read(split: ExampleSplit, tmp_path: Path) -> None:
    def means(parts: ExampleSplit, name: str) -> list[float | None]:
        found = segue.tune_clicks("logistic_regression", parts, trials=3, folder=tmp_path / name)
        return [one.mean for one in found.best.trials]

    other = ExampleSplit(split.train, split.valid, split.train, split.settings)
    swapped = ExampleSplit(split.train, split.test, split.valid, split.settings)
    assert means(other, "other") == means(split, "own")
    assert means(swapped, "swapped") != means(split, "own"), "the world tells validation and test apart"


def test_the_logarithmic_loss_is_minimized(split: ExampleSplit) -> None:
    tuned = segue.tune_clicks("logistic_regression", split, trials=4, metric="log_loss").best
    assert tuned.metric == "log_loss"
    assert tuned.best.mean == min(one.mean or math.inf for one in tuned.trials)


def test_trials_continue_and_time_ends_them(split: ExampleSplit, tmp_path: Path) -> None:
    options: dict[str, Any] = {"folder": tmp_path / "trials", "seed": 3}
    first = segue.tune_clicks("logistic_regression", split, trials=2, **options).best
    log: list[str] = []
    both = segue.tune_clicks("logistic_regression", split, trials=4, log=log.append, **options).best
    assert any("continuing after 2 trials" in line for line in log)
    assert both.trials[:2] == first.trials
    whole = segue.tune_clicks("logistic_regression", split, trials=4, seed=3, folder=tmp_path / "whole").best
    assert [one.values for one in whole.trials] == [one.values for one in both.trials]
    with pytest.raises(ValueError, match=r"tune: no trial of 'ctr_factorization_machine' was validated within 1e-06 s"):
        segue.tune_clicks("ctr_factorization_machine", split, time=1e-6)


# Commands


def test_the_command_tunes_and_compares_on_the_test_part(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = ["logistic_regression", "ctr_factorization_machine"]
    options = ["--data", str(path), "--trials", "2", "--set", "ctr_factorization_machine.epochs=2"]
    code, output, _ = call(capsys, "clicks", "tune", *models, *options, "--read-test")
    assert code == 0
    assert "validation AUC of 2 trials" in output
    assert "recipe: segue clicks train logistic_regression --data" in output
    record = result(capsys, "clicks", "tune", *models, *options, "--read-test")
    assert record["test"]["part"] == "test"
    assert set(record["test"]["models"]) == set(models)
    one = record["models"]["logistic_regression"]
    trained = result(
        capsys, "clicks", "train", "--recipe", one["recipe"], "--data", str(path), "--out", str(path.parent / "best")
    )
    assert trained["valid"]["auc"][0] == pytest.approx(one["best"]["mean"])
    best = Path(record["test"]["folder"]) / "logistic_regression" / "model" / "examples.json"
    assert json.loads(best.read_text())["model"] == "logistic_regression"


def test_tuning_starts_from_a_recipe(path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "start.toml"
    recipe.write_text('[task]\nmodel = "logistic_regression"\n\n[model]\nl2_features = 123.0\n')
    options = ["--data", str(path), "--trials", "1", "--recipe", str(recipe)]
    record = result(capsys, "clicks", "tune", "logistic_regression", *options)
    assert record["models"]["logistic_regression"]["start"] == {"model.l2_features": 123.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["deepfm"], "tune: no --data given"),
        (["deepfm", "deepfm", "--data", "shown.csv"], "models: got deepfm, deepfm, expected at least one, each once"),
        (["ease", "--data", "shown.csv"], "model: 'ease' is trained on an interaction log, not on labeled examples"),
        (["deepfm", "--data", "shown.csv", "--read-test"], "--read-test: got deepfm alone, expected at least 2 models"),
        (["deepfm", "dlrm", "--data", "shown.csv", "--recipe", "x.toml"], "--recipe: got one for 2 models"),
        (
            ["deepfm", "--data", "shown.csv", "--set", "run.track=[tensorboard]"],
            "run.track: trials have no trackers; leave it out",
        ),
        (["deepfm", "--data", "shown.csv", "--set", "split.valid=0"], "the split has no validation rows to choose by"),
        (["deepfm", "--data", "shown.csv", "--time", "soon"], "--time: got 'soon', expected a duration"),
        (["logistic_regression", "--data", "shown.csv", "--set", "l2_features=1"], "is left to search"),
        (["logistic_regression", "--data", "shown.csv", "--set", "l2_user=1"], "l2_user: 'logistic_regression' uses"),
    ],
)
def test_errors_come_before_the_first_trial(
    arguments: list[str],
    message: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(path.parent)
    code, output, errors = call(capsys, "clicks", "tune", *arguments)
    assert code == 2
    assert message in output + errors
    assert "trial 0" not in output + errors


@pytest.mark.parametrize("models", [[], 3, ["deepfm", "deepfm"], {"deepfm": 3}, None])
def test_models_are_keys_or_settings_by_key(models: Any, split: ExampleSplit) -> None:
    with pytest.raises(ValueError, match=r"models: got .*expected the key of a model, several different ones, or a ma"):
        segue.tune_clicks(models, split)


def test_settings_of_a_split_are_errors(split: ExampleSplit) -> None:
    with pytest.raises(ValueError, match="split: rows are split by split_examples, whose result is trained on"):
        segue.tune_clicks("deepfm", split, strategy="user")


def test_a_table_without_parts_is_no_split(table: pl.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"train: .* has no parts, expected a split: split_examples\(table\)"):
        segue.tune_clicks("deepfm", table)
