"""Tuning: search spaces, trials, studies that continue, budgets, recipes, and validation alone as the judge."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core.bundle import TrainedModel
from segue.core.config import Choices, Search, Settings, search_space
from segue.core.registry import model_class
from segue.core.run import Interrupted
from segue.core.types import Split
from segue.experiment.plan import Plan, make_plan
from segue.experiment.tuning import tune as tuning
from segue.experiment.tuning.recipe import describe_values
from segue.experiment.tuning.space import apply_values, find_space, read_values, tunable_models
from segue.experiment.tuning.study import Study, open_study, storage_address
from segue.experiment.tuning.trial import Trial, TrialParts, train_trial
from segue.training.settings import Training

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=40&seed=5"
SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "max_length": 10, "epochs": 3, "batch_size": 16}
MAIN = [
    *("ease", "item_knn", "user_knn", "ials", "als", "bpr", "svd", "nmf", "pmf", "slim", "svdpp"),
    *("sasrec", "bert4rec", "gru4rec", "lstm", "xlstm", "lightgcn", "multi_vae", "neumf", "deepfm", "dcn_v2"),
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(DATA)


def plan_of(key: str, *overrides: str) -> Plan:
    return make_plan({"model": key, "data": DATA}, overrides, "none")


def trial_parts(parts: Split) -> TrialParts:
    return TrialParts(parts.train, parts.valid)


class Clock:
    """A clock that advances when it is read, and by hand."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


# Spaces


@pytest.mark.parametrize("key", MAIN)
def test_every_point_of_a_space_is_valid(key: str) -> None:
    plan = plan_of(key)
    space, _ = find_space(plan)
    assert {"training.learning_rate", "training.batch_size"} <= space.keys() or not any("training." in n for n in space)
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = {name: draw(one, rng) for name, one in space.items()}
        assert read_values(apply_values(plan, values), space) == values
    assert all(value in space[name] for name, value in read_values(plan, space).items()), "the defaults are inside"


def draw(one: Search | Choices, rng: np.random.Generator) -> Any:
    if isinstance(one, Choices):
        return one.values[int(rng.integers(len(one.values)))]
    if isinstance(one.low, int) and isinstance(one.high, int):
        return int(rng.integers(one.low, one.high + 1))
    return float(rng.choice([one.low, one.high, rng.uniform(one.low, one.high)]))


def test_declared_values_are_inside_the_bounds_of_their_settings() -> None:
    kinds: list[type[Settings]] = [Training, *(model_class(key).Config for key in MAIN)]
    for kind in kinds:
        for name, one in search_space(kind).items():
            for value in one.values if isinstance(one, Choices) else (one.low, one.high):
                assert value in one, f"{kind.__qualname__}.{name}"
    assert 3 in Search(1, 5)
    assert True not in Search(1, 5)
    assert str(Search(1, 5, log=True)) == "1 to 5 (log)"
    assert str(Choices((None, "a"))) == "none, a"


def test_settings_that_exclude_each_other_are_not_searched() -> None:
    space, notes = find_space(plan_of("gru4rec", "evaluation.exclude_seen=false"))
    assert "model.mask_seen" not in space
    assert "model.mask_prob" not in space
    assert any("mask_seen is not searched: model.mask_seen: got True" in note for note in notes)
    assert any("mask_prob is not searched" in note and "objective='cloze'" in note for note in notes)
    assert "model.mask_prob" in find_space(plan_of("bert4rec"))[0]
    assert "model.weighting" not in find_space(plan_of("item_knn", "feedback=explicit"))[0]


def test_models_without_a_space_are_named_with_those_that_have_one(parts: Split) -> None:
    with pytest.raises(ValueError, match=r"'popular' declares no search space, expected one of als, bert4rec, .*xlstm"):
        segue.tune("popular", parts)
    with pytest.raises(ValueError, match=r"no setting of 'ease' is left to search \(fixed: model.l2\)"):
        segue.tune({"ease": {"l2": 3.0}}, parts)
    assert set(MAIN) <= set(tunable_models())


# Validation alone


def without_test(parts: Split) -> Split:
    return replace(parts, test=replace(parts.test, queries=parts.test.queries.take(np.array([0])),
                                       targets=parts.test.targets.take(np.array([0]))))  # fmt: skip


def test_the_judge_is_validation_and_the_test_part_is_not_read(parts: Split, tmp_path: Path) -> None:
    found = segue.tune("ease", parts, trials=4, folder=tmp_path / "a")
    means = [one.mean for one in found.best.trials]
    for one in found.best.trials:
        model = segue.train("ease", parts, recipe="none", baseline="none", **plain(one.values))
        expected = segue.evaluate(model, parts.valid, metrics=["ndcg@10"])["ndcg@10"]
        assert one.mean == pytest.approx(expected.mean)
        assert (one.low, one.high) == pytest.approx((expected.low, expected.high))
    other = segue.tune("ease", without_test(parts), trials=4, folder=tmp_path / "b")
    assert [one.mean for one in other.best.trials] == means, "another test part changes nothing"
    swapped = replace(parts, valid=parts.test, test=parts.valid)
    options: dict[str, Any] = {"folder": tmp_path / "c", "log": print}
    wrong = tuning.tune_plan("ease", found.best.start, swapped, tuning.Budget(4), **options)
    assert [one.mean for one in wrong.trials] != means, "the world tells validation and test apart"
    assert not list(tmp_path.rglob("*readings*"))
    assert found.best.best.mean == max(float(mean or 0.0) for mean in means)


def plain(values: Any) -> dict[str, Any]:
    return {name.partition(".")[2]: value for name, value in (values or {}).items()}


def test_a_network_has_the_value_of_its_best_epoch(parts: Split) -> None:
    plan = plan_of("gru4rec", *(f"{name}={value}" for name, value in SMALL.items()), "learning_rate=0.05")
    found = train_trial(plan, trial_parts(parts))
    history = segue.train("gru4rec", parts, recipe="none", learning_rate=0.05, **SMALL).training_history
    values = [line["valid/ndcg@10"] for line in history]
    assert found.estimate is not None
    assert found.estimate.mean == pytest.approx(max(values))
    assert found.best_epoch == 1 + int(np.argmax(values))
    assert (found.state, found.epochs) == ("complete", 3)


# Studies


def means_of(result: Any) -> list[tuple[Any, Any]]:
    return [(one.values, one.mean) for one in result.best.trials]


def test_a_study_continues_as_if_it_had_not_ended(parts: Split, tmp_path: Path) -> None:
    whole = segue.tune("item_knn", parts, trials=7, folder=tmp_path / "whole")
    segue.tune("item_knn", parts, trials=3, folder=tmp_path / "parts")
    lines: list[str] = []
    found = segue.tune("item_knn", parts, trials=7, folder=tmp_path / "parts", log=lines.append)
    assert means_of(found) == means_of(whole)
    assert "item_knn: continuing after 3 trials" in lines
    assert found.best.trials[0].values is None, "the first trial has the settings that tuning starts from"
    assert len({str(one.values) for one in found.best.trials}) == 7
    assert means_of(segue.tune("item_knn", parts, trials=7, folder=tmp_path / "other", seed=1)) != means_of(whole)


def test_an_interrupted_trial_is_repeated(parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = segue.tune("item_knn", parts, trials=4, folder=tmp_path / "whole")
    calls: list[Any] = []

    def interrupt(*args: Any, **options: Any) -> Trial:
        calls.append(args)
        if len(calls) == 3:
            raise Interrupted("by the user")
        return train_trial(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "train_trial", interrupt)
        with pytest.raises(Interrupted):
            segue.tune("item_knn", parts, trials=4, folder=tmp_path / "parts")
    found = segue.tune("item_knn", parts, trials=4, folder=tmp_path / "parts")
    assert means_of(found) == means_of(whole)
    import optuna

    (file,) = (tmp_path / "parts").rglob("study.db")
    (study,) = optuna.get_all_study_summaries(f"sqlite:///{file}")
    states = [
        one.state.name for one in optuna.load_study(study_name=study.study_name, storage=f"sqlite:///{file}").trials
    ]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    space: dict[str, Search | Choices] = {"model.l2": Search(1.0, 10.0), "model.k": Choices((1, 2))}
    address = storage_address(None, tmp_path)
    return open_study(address, "study", False, 0, space, {"model.l2": 5.0, "model.k": 9})


def measured(mean: float, state: Any = "complete") -> Trial:
    from segue.evaluation.bootstrap import Estimate

    return Trial(state, Estimate(mean, mean - 0.1, mean + 0.1), 1.0)


def unfinished_trial(study: Study) -> Any:
    """Begin a trial as another process would, which ends before the trial does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return study._study.ask()


def test_a_trial_of_a_process_that_was_killed_is_repeated(study: Study, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    trial = unfinished_trial(study)
    trial.set_user_attr("worker", f"{socket.gethostname()}:{ended.pid}")
    assert study.n_running == 1
    again = open_study(storage_address(None, tmp_path), "study", False, 0, study.space, study.start)
    assert again.n_running == 0
    assert again.run_trial(lambda values, report: measured(0.5), 1)
    assert [(one.number, one.values) for one in again.trials] == [(0, None)]
    assert again._study.trials[-1].params == {"model.l2": 5.0}, "the start is known to the sampler where it is inside"


def test_the_last_trial_is_not_run_twice(study: Study) -> None:
    unfinished_trial(study).set_user_attr("worker", "elsewhere:1")
    assert not study.run_trial(lambda values, report: measured(0.5), 1)
    assert study.trials == []
    assert study.n_running == 1


def test_a_trial_below_the_median_of_others_is_pruned(study: Study) -> None:
    def objective(level: float) -> Callable[..., Trial]:
        def train(values: Any, report: Any) -> Trial:
            for epoch in range(1, 6):
                if report(epoch, level):
                    return measured(level, "pruned")
            return measured(level)

        return train

    for level in (0.5, 0.5, 0.5, 0.5, 0.1):
        study.run_trial(objective(level), 9)
    assert [one.state for one in study.trials] == ["complete"] * 4 + ["pruned"]
    study.run_trial(lambda values, report: Trial("failed", None, 1.0, error="training diverged"), 9)
    assert (study.trials[-1].state, study.trials[-1].error) == ("failed", "training diverged")


def test_settings_that_cannot_be_trained_at_the_start_are_an_error(study: Study) -> None:
    with pytest.raises(ValueError, match="diverged"):
        study.run_trial(lambda values, report: Trial("failed", None, 1.0, error="training diverged"), 9)
    assert study.trials == []


@pytest.mark.parametrize("address", ["mysql://host/x", "study.db", "sqlite://", "postgresql"])
def test_other_databases_are_rejected(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected sqlite:///FILE or postgresql://"):
        storage_address(address, tmp_path)


def test_the_password_of_a_database_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"storage: got 'mysql://\.\.\.'") as caught:
        storage_address("mysql://me:secret@host/x", tmp_path)
    assert "secret" not in str(caught.value)
    assert storage_address("postgresql://me@host/x", tmp_path) == "postgresql+psycopg://me@host/x"


# Time


def test_a_network_ends_after_its_last_full_epoch(parts: Split) -> None:
    plan = plan_of("gru4rec", *(f"{name}={value}" for name, value in SMALL.items()), "epochs=50")
    clock = Clock(1.0)
    found = train_trial(plan, trial_parts(parts), deadline=40.0, clock=clock)
    assert found.state == "stopped"
    assert found.epochs is not None
    assert 1 <= found.epochs < 50
    assert found.estimate is not None
    assert found.model is not None
    assert clock.now < 50.0
    within = train_trial(plan, trial_parts(parts), deadline=3.0, clock=Clock(1.0))
    assert (within.state, within.epochs, within.estimate) == ("paused", 0, None)


def test_a_paused_network_continues_from_its_checkpoint(parts: Split, tmp_path: Path) -> None:
    plan = plan_of("gru4rec", *(f"{name}={value}" for name, value in SMALL.items()), "epochs=6")
    whole = train_trial(plan, trial_parts(parts))
    options: dict[str, Any] = {"folder": tmp_path / "trial", "can_pause": True}
    first = train_trial(plan, trial_parts(parts), deadline=25.0, clock=Clock(1.0), **options)
    assert first.state == "paused"
    second = train_trial(plan, trial_parts(parts), **options)
    assert second.state == "complete"
    assert whole.estimate is not None
    assert second.estimate is not None
    assert second.estimate.mean == pytest.approx(whole.estimate.mean)


def test_an_iterative_solver_is_interrupted(parts: Split) -> None:
    plan = plan_of("ials", "iterations=100000", "embedding_dim=4")
    found = train_trial(plan, trial_parts(parts), deadline=30.0, clock=Clock(1.0))
    assert (found.state, found.estimate) == ("paused", None)


@pytest.mark.parametrize("seconds", [10.0, 25.0, 1000.0])
def test_no_trial_begins_that_would_end_too_late(
    parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock = Clock()

    def train(*args: Any, **options: Any) -> Trial:
        clock.now += 4.0
        return replace(measured(0.5), seconds=4.0)

    monkeypatch.setattr(tuning, "train_trial", train)
    options: dict[str, Any] = {"folder": tmp_path, "log": lambda text: None, "clock": clock}
    found = tuning.tune_plan("ease", plan_of("ease"), parts, tuning.Budget(8, seconds), **options)
    assert len(found.trials) == min(int(seconds // 4), 8)
    assert clock.now <= seconds
    again = tuning.tune_plan("ease", plan_of("ease"), parts, tuning.Budget(8, seconds), **options)
    assert len(again.trials) == len(found.trials), "the time counts over all calls"


def test_too_little_time_for_one_trial_is_an_error(
    parts: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "train_trial", lambda *args, **options: Trial("paused", None, 1.0))
    with pytest.raises(ValueError, match="no trial of 'ease' was validated within 1 s; allow more time"):
        tuning.tune_plan("ease", plan_of("ease"), parts, tuning.Budget(2, 1.0), folder=tmp_path, log=print)


def test_durations() -> None:
    assert [tuning.parse_duration(one) for one in (None, 5, 2.5, "90", "90s", "10m", " 1.5H ")] == [
        *(None, 5.0, 2.5, 90.0, 90.0, 600.0, 5400.0),
    ]
    for wrong in ("", "m", "ten", "-1s", 0, -3, True, math.inf, math.nan, [1]):
        with pytest.raises(ValueError, match=r"time: got .*, expected a duration such as 90s, 10m or 2h"):
            tuning.parse_duration(wrong)


# Several models, recipes, comparison


def test_models_get_the_same_budget_and_are_compared_on_test_only_if_asked(parts: Split, tmp_path: Path) -> None:
    found = segue.tune({"ease": {}, "gru4rec": dict(SMALL)}, parts, trials=2, folder=tmp_path, test=True)
    assert {name: len(one.trials) for name, one in found.models.items()} == {"ease": 2, "gru4rec": 2}
    assert found.ranking == sorted(found.models, key=lambda name: -float(found.models[name].best.mean or 0.0))
    assert set(found.comparison.models) == {"ease", "gru4rec"}
    assert found.comparison.simple_baseline is not None
    for name, one in found.models.items():
        assert one.plan.model == found.comparison.models[name].model.config
    assert set(found.table.columns) >= {"model", "trial", "state", "mean", "low", "high", "seconds", "values"}
    assert "TuningResult" in repr(found)
    assert segue.tune(["ease"], parts, trials=1, folder=tmp_path).comparison is None


def test_the_recipe_holds_the_best_settings(parts: Split, tmp_path: Path) -> None:
    found = segue.tune({"gru4rec": dict(SMALL)}, parts, trials=3, folder=tmp_path).best
    plan = make_plan({"model": "gru4rec", "data": DATA}, (), found.recipe)
    assert (plan.model, plan.training) == (found.plan.model, found.plan.training)
    assert tomllib.loads(found.recipe.read_text())["task"] == {"model": "gru4rec"}
    model = segue.train("gru4rec", parts, recipe=found.recipe, baseline="none")
    value = segue.evaluate(model, parts.valid, metrics=["ndcg@10"])["ndcg@10"].mean
    assert value == pytest.approx(found.best.mean)
    direct = segue.train("gru4rec", parts, recipe="none", baseline="none", **found.settings)
    assert direct.model.config == model.model.config
    with pytest.raises(ValueError, match="a recipe for 'gru4rec', expected one for 'ease'"):
        segue.train("ease", parts, recipe=found.recipe)


def test_values_without_toml_are_written(parts: Split, tmp_path: Path) -> None:
    found = segue.tune({"item_knn": {"weighting": "bm25"}}, parts, trials=1, folder=tmp_path).best
    text = found.recipe.read_text()
    assert 'weighting = "bm25"' in text
    assert describe_values({"model.a": None, "model.b": True, "model.c": 0.00012345}) == "a=none, b=true, c=0.000123"


def test_models_with_different_metrics_are_not_tuned_together(parts: Split) -> None:
    with pytest.raises(ValueError, match=r"different validation metrics \(ease: ndcg@10, als: rmse\)"):
        segue.tune(["ease", "als"], parts)
    rows = [(u, (u * 3 + t) % 12, t, 1 + (u + t) % 5) for u in range(24) for t in range(8)]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")
    found = segue.tune("als", segue.load(log), trials=2, embedding_dim=4)
    assert found.metric == "rmse"
    assert found.best.best.mean == min(float(one.mean or 9.0) for one in found.best.trials)


def test_a_trained_model_or_a_split_without_validation_is_an_error(parts: Split) -> None:
    model: TrainedModel = segue.train("ease", parts)
    with pytest.raises(ValueError, match="'ease' is already trained"):
        segue.tune([model], parts)
    with pytest.raises(ValueError, match="no validation part"):
        segue.tune("ease", segue.split(DATA, "random", valid=0))
    with pytest.raises(ValueError, match="trials: got 0"):
        segue.tune("ease", parts, trials=0)
