"""Training and its validation never depend on the test part, and do depend on the validation part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import segue
from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.run import Run
from segue.core.types import Dataset, Events, HeldOut, Split
from segue.data.split_settings import SplitSettings
from segue.data.splits import split
from segue.experiment import run_experiment
from segue.experiment.plan import make_plan
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run
from segue.experiment.train_model import prepare_training, train_job

SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "epochs": 4, "learning_rate": 0.03}
Change = Callable[[Split], Split]


def shift_targets(part: HeldOut) -> HeldOut:
    """Return the queries with other targets."""
    targets = (part.targets.items + 17) % 40
    return replace(part, targets=replace(part.targets, items=targets.astype(part.targets.items.dtype)))


def other_test(parts: Split) -> Split:
    return replace(parts, test=shift_targets(parts.test))


def other_valid(parts: Split) -> Split:
    return replace(parts, valid=shift_targets(parts.valid))


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load("simulated?users=60&items=40&seed=3"))


def outcome(trained: TrainedModel) -> Any:
    """Return all that a training reports about its validation."""
    logged = [{k: v for k, v in line.items() if k.startswith("valid/")} for line in trained.training_history]
    return logged, trained.metadata.get("validation")


def test_train_validates_on_the_validation_part(parts: Split) -> None:
    found, unchanged, changed = (
        segue.train("gru4rec", data, **SMALL) for data in (parts, other_test(parts), other_valid(parts))
    )
    assert outcome(found)[0][0]
    assert outcome(found)[1]
    assert outcome(unchanged) == outcome(found)
    for logged_or_judged in (0, 1):
        assert outcome(changed)[logged_or_judged] != outcome(found)[logged_or_judged]
    for name, array in found.model.arrays().items():
        np.testing.assert_array_equal(unchanged.model.arrays()[name], array)


def test_train_job_validates_on_the_validation_part(parts: Split) -> None:
    """Every other use of the settings, such as a comparison of models, trains through this function."""
    job = prepare_training("gru4rec", parts.train.name, SMALL, "none")
    logs = []
    for data in (parts, other_test(parts), other_valid(parts)):
        lines: list[Any] = []
        tracker: Any = type("Track", (), {"log": lambda self, step, values, to=lines: to.append(dict(values))})()
        train_job(job, data, Run(0, trackers=(tracker,)))
        logs.append([{k: v for k, v in line.items() if k.startswith("valid/")} for line in lines])
    assert logs[0][0]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_run_plan_validates_on_the_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    settings = [f"{name}={value}" for name, value in SMALL.items()]
    plan = make_plan({"model": "gru4rec", "data": "simulated?users=60&items=40&seed=3"}, settings, "none")

    def run(name: str, change: Change) -> tuple[Any, Any]:
        def changed_split(data: Dataset, found: SplitSettings) -> Split:
            return change(split(data, found))

        with monkeypatch.context() as patch:
            patch.setattr(run_experiment, "split", changed_split)
            patch.setattr(run_experiment, "check_leakage", lambda _: [])
            folder = create_run(plan, tmp_path / name)
            record = run_plan(plan, folder, log=lambda _: None)
        logged = [{k: v for k, v in line.items() if k.startswith("valid/")} for line in Run(folder=folder).history()]
        baseline = {key: value for key, value in record["baseline"].items() if key != "seconds"}
        shown = {key: record[key] for key in ("part", "valid", "intervals", "validation")}
        return (logged, shown["valid"], shown["validation"], baseline), bundle.load(folder / "bundle").model.arrays()

    found, arrays = run("a", lambda parts: parts)
    unchanged, same_arrays = run("b", other_test)
    changed, _ = run("c", other_valid)
    assert found[0][0]
    assert found == unchanged
    assert all(one != other for one, other in zip(found, changed, strict=True))
    for name, array in arrays.items():
        np.testing.assert_array_equal(same_arrays[name], array)


def returning_users() -> pl.DataFrame:
    """Users who return to their items."""
    rng = np.random.default_rng(0)
    rows = [(user, int(rng.integers(5)) + user % 4 * 3, t) for user in range(40) for t in range(8)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


ONE_EPOCH = {**SMALL, "epochs": 1}


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_train_validates_and_compares_with_the_configured_seen_items(exclude_seen: bool) -> None:
    parts = segue.split(returning_users())
    trained = segue.train("gru4rec", parts, exclude_seen=exclude_seen, recipe="none", **ONE_EPOCH)
    baseline = segue.train("recent_popular", parts.train)
    (logged,), judged = outcome(trained)
    expected = {flag: segue.evaluate(trained, parts.valid, exclude_seen=flag)["ndcg@10"].mean for flag in (True, False)}
    assert expected[True] != pytest.approx(expected[False], abs=1e-3)
    assert logged["valid/ndcg@10"] == pytest.approx(expected[exclude_seen])
    assert judged["value"] == pytest.approx(expected[exclude_seen], abs=1e-6)
    if judged["baseline"] == "recent_popular":
        found = segue.evaluate(baseline, parts.valid, exclude_seen=exclude_seen)["ndcg@10"].mean
        assert judged["baseline_value"] == pytest.approx(found, abs=1e-6)


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_run_plan_validates_compares_and_evaluates_with_the_configured_seen_items(
    exclude_seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    returning_users().write_csv(tmp_path / "log.csv")
    settings = [f"{name}={value}" for name, value in ONE_EPOCH.items()]
    settings += [f"evaluation.exclude_seen={str(exclude_seen).lower()}", "evaluation.ks=[10]"]
    plan = make_plan({"model": "gru4rec", "data": str(tmp_path / "log.csv")}, settings, "none")
    folder = create_run(plan, tmp_path / "run")
    record = run_plan(plan, folder, log=lambda _: None)
    trained, parts = segue.open(folder), segue.split(tmp_path / "log.csv")
    expected = segue.evaluate(trained, parts.valid, exclude_seen=exclude_seen)["ndcg@10"].mean
    assert expected != segue.evaluate(trained, parts.valid, exclude_seen=not exclude_seen)["ndcg@10"].mean
    assert Run(folder=folder).history()[0]["valid/ndcg@10"] == pytest.approx(expected)
    assert record["validation"]["value"] == pytest.approx(expected, abs=1e-6)
    assert record["valid"]["ndcg@10"] == record["ndcg@10"] == pytest.approx(expected, abs=1e-6)
    assert "ndcg@5" not in record


def test_run_plan_trains_nothing_on_a_split_that_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All targets are also training events."""

    def leaking_split(data: Dataset, settings: SplitSettings) -> Split:
        parts = split(data, settings)
        return replace(parts, train=data)

    def fail(*_: object) -> None:
        raise AssertionError("a model was trained")

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    monkeypatch.setattr(run_experiment, "split", leaking_split)
    monkeypatch.setattr(run_experiment, "train", fail)
    plan = make_plan({"model": "popular", "data": "simulated?users=60&items=40&seed=3"}, [], "none")
    with pytest.raises(ValueError, match=r"the split leaks, nothing was trained:\n.*targets are training events"):
        run_plan(plan, create_run(plan, tmp_path / "run"), log=lambda _: None)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_the_parts_have_different_targets(parts: Split, part: str) -> None:
    """Otherwise the tests above could not tell them apart."""
    held_out: HeldOut = getattr(parts, part)
    shifted: Events = shift_targets(held_out).targets
    assert (shifted.items != held_out.targets.items).all()
