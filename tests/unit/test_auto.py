"""The automatic choice of a model: never below a simple baseline, within its time, and a normal run at the end."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command_line import call, result

import segue
from segue.core.bundle import TrainedModel
from segue.core.files import read_json
from segue.core.types import Dataset
from segue.evaluation.bootstrap import Estimate
from segue.experiment.plan import make_plan
from segue.experiment.run_folder import verify
from segue.experiment.tuning import auto as choice
from segue.experiment.tuning import search as searching
from segue.experiment.tuning.search import ModelSearch
from segue.experiment.tuning.trial import Trial, TrialParts, train_trial

pytestmark = pytest.mark.filterwarnings("ignore::segue.core.messages.SegueWarning")

DATA = "simulated?users=60&items=40&seed=5"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try two models, and few trials of each."""
    monkeypatch.setattr(choice, "SOLVERS", ("item_knn",))
    monkeypatch.setattr(choice, "NETWORKS", ())
    monkeypatch.setattr(searching, "TRIALS", 2)


def cycle() -> Dataset:
    """Users who go around a cycle of items: the item after the last one is certain."""
    rows = [(u, (u + t) % 12, t + 1) for u in range(24) for t in range(8)]
    return segue.load(pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row"))


# The time, on a clock that only moves when something is trained


class World:
    """Models with known costs and values, on a clock that moves only while they are trained."""

    def __init__(self, evaluation: float, costs: dict[str, float], values: dict[str, float]) -> None:
        self.now, self.evaluation, self.costs, self.values = 0.0, evaluation, costs, values
        self.epochs: dict[Path, int] = {}
        self.most = 20

    def clock(self) -> float:
        return self.now

    def measured(self, key: str, scale: float = 1.0) -> Estimate:
        value = self.values.get(key, 0.1) * scale
        return Estimate(value, value - 0.01, value + 0.01)

    def train(self, plan: Any, parts: Any, *, deadline: float = math.inf, folder: Any = None, **options: Any) -> Trial:
        """Train a solver in one step, or a network that is better after each epoch."""
        key, started = plan.task.model, self.now
        cost = self.costs.get(key, 1.0)
        if key == "ials" and self.now + cost > deadline:  # it trains in iterations
            self.now = deadline
            return Trial("paused", None, self.now - started)
        if folder is None:
            self.now += cost + self.evaluation
            return Trial("complete", self.measured(key), self.now - started)
        folder.mkdir(parents=True, exist_ok=True)
        n_epochs, done = min(plan.training.epochs, self.most), self.epochs.get(folder, 0)
        while done < n_epochs and self.now + cost + self.evaluation <= deadline:
            self.now += cost + self.evaluation
            done += 1
        self.epochs[folder] = done
        state: Any = "complete" if done == n_epochs else "paused" if options.get("can_pause") else "stopped"
        estimate = self.measured(key, done / self.most) if done else None
        return Trial(state, estimate, self.now - started, done)


SEARCHED = ("item_knn", "ials", "ease", "sasrec", "gru4rec")
COSTS: list[dict[str, float]] = [
    {},
    {"item_knn": 20.0, "ials": 8.0, "ease": 30.0, "sasrec": 3.0, "gru4rec": 1.0},
    {"item_knn": 0.1, "ials": 200.0, "ease": 0.5, "sasrec": 60.0, "gru4rec": 400.0},
    {"item_knn": 1e4, "sasrec": 1e4, "gru4rec": 0.01},
]


def search(world: World, seconds: float, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSearch:
    parts = segue.split(DATA)
    task, texts = {"data": DATA}, ["training.metric=ndcg@10"]
    plans = {key: make_plan({"model": key, **task}, texts, "none") for key in SEARCHED}
    names = ("popular", "recent_popular", "transitions", "frequent", "ease")
    baselines = {key: make_plan({"model": key, **task}, texts, "none") for key in names}
    monkeypatch.setattr(searching, "train_trial", world.train)
    monkeypatch.setattr(searching, "epoch_seconds", lambda plan, *rest: world.costs.get(plan.task.model, 1.0))
    monkeypatch.setattr(searching, "sample_seconds", lambda plan, *rest: world.costs.get(plan.task.model, 1.0))
    monkeypatch.setattr(searching, "dense_seconds", lambda *rest: world.costs.get("ease", 1.0))
    models = ("ndcg@10", plans, baselines, True, 0)
    return ModelSearch(
        TrialParts(parts.train, parts.valid), *models, seconds, seconds, folder, world.clock, lambda text: None
    )


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("seconds", [10.0, 100.0, 600.0])
def test_the_time_is_kept_with_the_final_run(
    costs: dict[str, float], seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0.5, costs, {"sasrec": 0.9, "gru4rec": 0.7, "ease": 0.5})
    found = search(world, seconds, tmp_path, monkeypatch)
    best = found.run()
    again = 0.0 if best.checkpoint is not None else best.seconds
    final = again + 2 * found.strongest_baseline.seconds + world.evaluation
    assert world.now + final <= 1.1 * seconds + world.evaluation
    assert best.estimate is not None
    assert found.strongest_baseline.estimate is not None
    assert best.estimate.mean >= found.strongest_baseline.estimate.mean
    assert {one.model for one in found.attempts} | found.skipped.keys() >= set(SEARCHED)
    if best.checkpoint is not None:
        assert best.checkpoint.exists(), "the final run continues from it"
        assert best.plan.training.epochs == world.epochs[best.checkpoint] or best.state == "complete"


def test_the_best_network_of_the_race_gets_the_rest_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0.5, {"sasrec": 15.0, "gru4rec": 15.0}, {"sasrec": 0.9, "gru4rec": 0.4})
    found = search(world, 300.0, tmp_path, monkeypatch)
    assert found.run().model == "sasrec"
    epochs = {one.model: one.plan.training.epochs for one in found.attempts if one.model in ("sasrec", "gru4rec")}
    assert epochs["sasrec"] > 2 * epochs["gru4rec"]
    assert [path.name for path in tmp_path.glob("race-*")] == ["race-sasrec"], "other checkpoints are deleted"


def with_schedule(found: ModelSearch, *keys: str) -> None:
    """Give models a schedule of 100 epochs, as recipes for the data have."""
    for key in keys:
        plan = found.plans[key]
        training = plan.training.model_copy(update={"schedule": "cosine", "epochs": 100})
        task = plan.task.model_copy(update={"recipe": f"recipes/{key}.toml"})
        found.plans = {**found.plans, key: replace(plan, training=training, task=task)}


def test_a_schedule_is_shortened_to_the_time_of_the_best_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0.5, {"sasrec": 4.0, "gru4rec": 4.0}, {"sasrec": 0.9, "gru4rec": 0.2})
    world.most = 100
    found = search(world, 600.0, tmp_path, monkeypatch)
    with_schedule(found, "sasrec", "gru4rec")
    best = found.run()
    trials = [(one.model, one.state) for one in found.attempts if one.model in ("sasrec", "gru4rec")]
    assert trials[:2] == [("sasrec", "complete"), ("gru4rec", "stopped")]
    assert 0.5 * 600.0 <= best.plan.training.epochs * 4.0 <= 0.85 * 600.0
    assert world.now <= 600.0
    assert not list(tmp_path.glob("race-gru4rec")), "other checkpoints are deleted"


def test_a_network_with_a_recipe_for_the_data_has_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0.5, {"sasrec": 4.0, "gru4rec": 4.0}, {"sasrec": 0.9, "gru4rec": 0.95, "transitions": 0.99})
    world.most = 100
    found = search(world, 600.0, tmp_path, monkeypatch)
    with_schedule(found, "sasrec")
    assert found.run().model == "transitions"
    epochs = {one.model: one.plan.training.epochs for one in found.attempts if one.kind == "model"}
    assert epochs["sasrec"] * 4.0 >= 0.6 * 600.0, "a baseline that is better takes no time from it"
    assert "gru4rec" in found.skipped or epochs["gru4rec"] < 0.2 * epochs["sasrec"]


def test_expensive_networks_are_left_out_of_the_race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0.5, {"sasrec": 200.0, "gru4rec": 4.0}, {"sasrec": 0.9, "gru4rec": 0.8})
    found = search(world, 600.0, tmp_path, monkeypatch)
    assert found.run().model == "gru4rec"
    assert "an epoch takes about 200 s, and cheaper networks are compared for" in found.skipped["sasrec"]


def test_the_rest_of_the_time_is_spent_on_settings_of_the_best_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0.5, {"item_knn": 5.0}, {"item_knn": 0.9, "transitions": 0.95})
    found = search(world, 600.0, tmp_path, monkeypatch)
    found.plans = {key: plan for key, plan in found.plans.items() if key in ("item_knn", "gru4rec")}
    assert found.run().model == "transitions"
    tried = [one.plan.model for one in found.attempts if one.model == "item_knn"]
    assert len(tried) > searching.TRIALS
    assert len({str(one) for one in tried}) > searching.TRIALS, "other values than before"


def test_a_model_whose_data_is_missing_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(World(0.5, {}, {}), 60.0, tmp_path, monkeypatch)

    def fail(plan: Any, *rest: Any) -> float:
        raise ValueError("content: compares item features, of which the log has none\nmore")

    monkeypatch.setattr(searching, "sample_seconds", fail)
    found.run()
    assert found.skipped["item_knn"] == "content: compares item features, of which the log has none"


def test_what_does_not_fit_is_skipped_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(0.1, {"item_knn": 1e4, "sasrec": 1e4, "ease": 1e4}, {"popular": 0.5})
    found = search(world, 60.0, tmp_path, monkeypatch)
    found.run()
    assert "its training takes about 10000 s" in found.skipped["item_knn"]
    assert "an epoch takes about 10000 s" in found.skipped["sasrec"]
    assert "its training takes about 10000 s" in found.skipped["ease"]


def test_too_little_time_ends_with_the_best_simple_baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brief baselines are measured even if the time is over, and the rest is named."""
    world = World(0.1, {}, {"transitions": 0.5})
    found = search(world, 60.0, tmp_path, monkeypatch)
    world.now = 61.0
    assert found.run().model == "transitions"
    assert [one.model for one in found.attempts] == ["popular", "recent_popular", "transitions"]
    assert found.skipped.pop("frequent") == "items of the user's history are excluded from the ranking"
    assert found.skipped == dict.fromkeys(SEARCHED, "the time was over")
    slow = World(0.1, {"popular": 5.0}, {"transitions": 0.5})
    other = search(slow, 60.0, tmp_path, monkeypatch)
    slow.now = 61.0
    assert other.run().model == "popular"
    assert other.skipped["transitions"] == "the time was over"


def test_a_short_time_says_that_it_was_too_short(few: None) -> None:
    found = segue.auto(DATA, time=0.001)
    assert found.best.kind == "baseline"
    assert found.model.key == found.best.model
    text = found.describe()
    assert "not tried: item_knn: the time was over" in text
    assert any("give more than the time of reading the data, the baselines and the final run" in one for one in text)
    one = replace(found, attempts=found.attempts[:1]).describe()[0]
    assert "the best of 1 attempt with 1 model on validation" in one


def test_a_model_that_fails_is_recorded_and_the_others_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(0.1, {}, {})
    found = search(world, 100.0, tmp_path, monkeypatch)

    def train(plan: Any, *args: Any, **options: Any) -> Trial:
        is_broken = plan.task.model in ("ials", "sasrec")
        return Trial("failed", None, 1.0, error="diverged") if is_broken else world.train(plan, *args, **options)

    monkeypatch.setattr(searching, "train_trial", train)
    found.run()
    assert {(one.model, one.note) for one in found.attempts if one.state == "failed"} == {
        ("ials", "diverged"),
        ("sasrec", "diverged"),
    }
    assert {"item_knn", "ease", "gru4rec"} <= {one.model for one in found.attempts if one.estimate is not None}


# Real data


def test_a_baseline_that_nothing_beats_is_the_result(few: None) -> None:
    found = segue.auto(cycle(), time=1000)
    assert (found.best.model, found.best.kind) == ("transitions", "baseline")
    assert found.best.estimate is not None
    assert found.best.estimate.mean == 1.0
    assert found.model.key == "transitions"
    assert "no model was better than this simple baseline on validation, so it is the result" in found.describe()
    assert found.run is None


def test_the_final_run_is_a_normal_one(few: None, home: Path) -> None:
    found = segue.auto(DATA, time="1000s")
    assert found.run is not None
    assert verify(found.run) == []
    for name in ("bundle", "card.md", "settings.toml", "auto.json", "auto.md"):
        assert (found.run / name).exists(), name
    record = read_json(found.run / "metrics.json")
    assert record["part"] == "valid", "the test part is not read"
    assert not list(home.rglob("*readings*"))
    assert found.best.estimate is not None
    assert record["valid"]["ndcg@10"] == pytest.approx(found.best.estimate.mean, abs=1e-6)
    assert isinstance(found.model, TrainedModel)
    assert found.model.key == found.best.model
    stored = read_json(found.run / "auto.json")
    assert stored["best"]["model"] == found.best.model
    assert [one["model"] for one in stored["attempts"]] == [one.model for one in found.ranking]
    assert "| model | validation ndcg@10 |" in (found.run / "auto.md").read_text()
    assert set(found.table.columns) >= {"model", "kind", "mean", "low", "high", "seconds", "settings", "note"}
    ease = {one.kind: one for one in found.attempts if one.model == "ease"}
    again = segue.evaluate(segue.train("ease", segue.split(DATA)), segue.split(DATA).valid, metrics=["ndcg@10"])
    assert ease["baseline"].estimate == again["ndcg@10"]


def test_a_network_is_not_trained_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "SOLVERS", ())
    monkeypatch.setattr(choice, "NETWORKS", ("gru4rec",))
    monkeypatch.setattr(searching, "TRIALS", 1)
    monkeypatch.setattr(searching, "RANKING_BASELINES", ("popular",))
    start = {"model.embedding_dim": 8, "model.hidden_dim": 8, "training.epochs": 3, "training.learning_rate": 0.03}
    monkeypatch.setattr(choice, "START", {**start, "model.max_length": 10, "training.batch_size": 16})

    def train(plan: Any, *args: Any, **options: Any) -> Trial:  # so that the network wins
        found = train_trial(plan, *args, **options)
        return replace(found, estimate=Estimate(0.0, 0.0, 0.0)) if plan.task.model == "popular" else found

    monkeypatch.setattr(searching, "train_trial", train)
    found = segue.auto(DATA, time=10_000)
    assert found.run is not None
    assert (found.best.model, found.best.state) == ("gru4rec", "complete")
    assert len((found.run / "history.jsonl").read_text().splitlines()) == 3
    record = read_json(found.run / "metrics.json")
    assert found.best.estimate is not None
    assert record["valid"]["ndcg@10"] == pytest.approx(found.best.estimate.mean, abs=1e-6)
    assert verify(found.run) == []
    plan = found.best.plan
    alone = segue.train("gru4rec", segue.split(DATA), recipe="none", **found.best.settings)
    value = segue.evaluate(alone, segue.split(DATA).valid, metrics=["ndcg@10"])["ndcg@10"].mean
    assert value == pytest.approx(found.best.estimate.mean), plan.training


def test_recipes_come_first_and_others_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "recipes" / "log"
    folder.mkdir(parents=True)
    (folder / "lstm.toml").write_text("[model]\nhidden_dim = 32\n")
    (folder / "als.toml").write_text("[model]\nl2 = 0.1\n")
    (folder / "ials.toml").write_text("[model]\nl2 = 0.01\n[split]\nstrategy = 'random'\n")
    monkeypatch.setattr(choice, "recipes_folder", lambda: tmp_path / "recipes")
    monkeypatch.setattr("segue.experiment.plan.recipes_folder", lambda: tmp_path / "recipes")
    found = choice.find_candidates({"data": "log"}, (), "ndcg@10")
    assert list(found.plans) == ["item_knn", "ials", "ease", "lstm", "xlstm", "sasrec", "gru4rec"]
    assert found.plans["lstm"].model.hidden_dim == 32  # type: ignore[attr-defined]
    assert found.plans["ials"].task.recipe is None, "it has another evaluation protocol"
    assert found.plans["sasrec"].model.mask_seen  # type: ignore[attr-defined]
    assert found.skipped["als"] == "it predicts ratings and is not trained to rank"
    assert found.skipped["lightgcn"] == "only 4 networks are tried"
    ranked = choice.find_candidates({"data": "log"}, ("evaluation.exclude_seen=false",), "ndcg@10")
    assert not ranked.plans["sasrec"].model.mask_seen  # type: ignore[attr-defined]


def test_what_auto_does_not_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="auto chooses models that rank, expected one such as ndcg@10"):
        segue.auto(DATA, metric="rmse")
    with pytest.raises(ValueError, match="embedding_dim: auto does not use this setting"):
        segue.auto(DATA, embedding_dim=3)
    with pytest.raises(ValueError, match="time: got 'soon'"):
        segue.auto(DATA, time="soon")
    with pytest.raises(ValueError, match="folder: got one for data in memory"):
        segue.auto(cycle(), folder="out")
    with pytest.raises(ValueError, match="no validation part"):
        segue.auto(segue.split(DATA, "random", valid=0))


# Commands


def test_the_commands(few: None, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    found = result(capsys, "auto", DATA, "--time", "1000s", "--out", home / "chosen")
    assert found["run"] == str(home / "chosen")
    assert found["best"]["valid"][0] >= found["baseline"]["valid"][0]
    status, out, err = call(capsys, "auto", DATA, "--set", "embedding_dim=3")
    assert status
    assert "embedding_dim: unknown key" in err
    assert "auto reads settings of data, split, evaluation and run, not of models" in err
    tuned = result(capsys, "tune", "ease", "item_knn", "--data", DATA, "--trials", "2", "--set", "item_knn.k=20")
    assert [len(one["trials"]) for one in tuned["models"].values()] == [2, 2]
    assert "model.k" not in tuned["models"]["item_knn"]["space"]
    recipe = tuned["models"]["ease"]["recipe"]
    trained = result(capsys, "train", "ease", "--data", DATA, "--recipe", recipe)
    assert trained["valid"]["ndcg@10"] == pytest.approx(tuned["models"]["ease"]["best"]["mean"], abs=1e-6)
    status, out, err = call(capsys, "tune", "ease", "--data", DATA, "--trials", "3")
    assert status == 0, err
    assert "ease: continuing after 2 trials" in err
    assert f"recipe: segue train ease --data '{DATA}' --recipe" in out
    shutil.rmtree(home / "runs" / "tune")
    for words, text in (
        (("tune", "popular", "--data", DATA), "declares no search space"),
        (("tune", "ease"), "no --data given"),
        (("tune", "ease", "--data", DATA, "--test"), "expected at least 2 models"),
        (("tune", "ease", "--data", DATA, "--time", "x"), "--time: got 'x'"),
        (("tune", "ease", "als", "--data", DATA, "--recipe", "x"), "got one for 2 models"),
    ):
        status, out, err = call(capsys, *words)
        assert status
        assert text in err
    assert not np.any([path.exists() for path in (home / "runs" / "tune").glob("*")])
