"""A folder continues only the training that it was created for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from command_line import call

import segue
from segue.core.messages import SegueWarning
from segue.core.types import Dataset, HeldOut, Split, Vocab
from segue.experiment.plan import make_plan
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run
from segue.training.callbacks import Callback

SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "recipe": "none", "epochs": 1}

SCALE = 1.0
"""Global variable of the loss ``scaled_by_a_global``."""


@pytest.fixture(scope="module")
def parts() -> Split:
    return segue.split(segue.load("simulated?users=60&items=40&seed=3"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 2}, r"training\.epochs: 2 here, 1 there"),
        ({"embedding_dim": 4}, r"model\.embedding_dim: 4 here, 8 there"),
        ({"seed": 1}, "seed: 1 here, 0 there"),
        ({"loss": "bce"}, "loss: 'bce' here, 'cross_entropy' there"),
        ({"metric": "mrr@10"}, "metric: 'mrr@10' here, 'ndcg@10' there"),
        ({"exclude_seen": False}, r"evaluation\.exclude_seen: False here, True there"),
    ],
)
def test_a_folder_is_not_reused_with_other_settings(
    tmp_path: Path, parts: Split, change: dict[str, Any], message: str
) -> None:
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL)
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL)
    with pytest.raises(ValueError, match=message):
        segue.train("gru4rec", parts, folder=tmp_path, **{**SMALL, **change})


def test_a_folder_is_not_reused_with_other_data_or_another_split(tmp_path: Path, parts: Split) -> None:
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL)
    other = segue.split(segue.load("simulated?users=60&items=40&seed=4"))
    for data in (other, segue.split(segue.load("simulated?users=60&items=40&seed=3"), "random"), parts.train):
        with pytest.raises(ValueError, match=r"checkpoint of another training.*\n(.*\n)*  data\."):
            segue.train("gru4rec", data, folder=tmp_path, **SMALL)


def test_a_run_is_not_resumed_after_its_log_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    log = tmp_path / "log.csv"
    lines = [f"u{user},i{(user + step) % 9},{step}" for user in range(12) for step in range(5)]
    log.write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    plan = make_plan({"model": "gru4rec", "data": str(log)}, ["epochs=1", "embedding_dim=8", "hidden_dim=8"], "none")
    folder = create_run(plan, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("segue.experiment.run_experiment.bundle.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, folder, log=lambda _: None)
    log.write_text("\n".join(["user_id,item_id,timestamp", *lines, "u12,i1,1", "u12,i2,2", "u12,i3,3"]))
    with pytest.raises(ValueError, match=r"checkpoint of another training.*\n(.*\n)*  data\.users: 13 here, 12 there"):
        run_plan(plan, folder, log=lambda _: None)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def with_training(parts: Split, **changes: Any) -> Split:
    return replace(parts, train=replace(parts.train, **changes))


def with_other_ids(data: Dataset, noun: str) -> Split:
    ids: Vocab = getattr(data, noun)
    return segue.split(replace(data, **{noun: Vocab([f"other-{one}" for one in ids.ids])}))


def with_other_features(parts: Split, noun: str) -> Split:
    table: pl.LazyFrame = getattr(parts.train, noun)
    return with_training(parts, **{noun: table.with_columns(pl.lit("x").alias("new"))})


def with_unknown_times(parts: Split) -> Split:
    histories = parts.train.histories
    context = {**histories.context, "time_known": np.zeros(histories.size, np.bool_)}
    return with_training(parts, histories=replace(histories, context=context))


def with_other_targets(parts: Split) -> Split:
    items = parts.valid.targets.items[::-1].copy()
    return replace(parts, valid=HeldOut(parts.valid.queries, replace(parts.valid.targets, items=items)))


CHANGES: dict[str, Callable[[Split], Split]] = {
    "user_ids": lambda parts: with_other_ids(parts.train, "users"),
    "item_ids": lambda parts: with_other_ids(parts.train, "items"),
    "user_features": lambda parts: with_other_features(parts, "user_features"),
    "item_features": lambda parts: with_other_features(parts, "item_features"),
    "training_hash": with_unknown_times,
    "validation_hash": with_other_targets,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_is_not_reused_after_any_part_of_the_data_has_changed(tmp_path: Path, parts: Split, name: str) -> None:
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL)
    with pytest.raises(
        ValueError, match=rf"checkpoint of another training.*\n(.*\n)*  data\.{name}: '\w+' here, '\w+' "
    ):
        segue.train("gru4rec", CHANGES[name](parts), folder=tmp_path, **SMALL)


def scaled(scale: Any) -> Callable[..., torch.Tensor]:
    def loss(hidden_MD: Any, vectors_ID: Any, bias_I: Any, targets_M: Any, seen: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(float(scale) * (hidden_MD @ vectors_ID.T), targets_M)

    return loss


def scaled_by_a_global(hidden_MD: Any, vectors_ID: Any, bias_I: Any, targets_M: Any, seen: Any) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(SCALE * (hidden_MD @ vectors_ID.T), targets_M)


class HitsAt:
    """A metric with a state."""

    __name__ = "hits"

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def __call__(self, ranks: Any) -> Any:
        found = np.bincount(ranks.rows, ranks.expected_ranks <= self.limit, minlength=len(ranks))
        return np.where(np.diff(ranks.offsets) > 0, found, np.nan)


class StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_epoch_end(self, state: Any) -> None:
        if state.epoch >= self.epochs:
            state.request_stop()


@pytest.mark.parametrize(
    ("setting", "before", "after"),
    [
        ("loss", lambda: scaled(1.0), lambda: scaled(2.0)),
        ("metric", lambda: HitsAt(5), lambda: HitsAt(6)),
        ("callbacks", lambda: [StopAfter(1)], lambda: [StopAfter(2)]),
    ],
)
def test_a_folder_is_not_reused_with_a_function_of_another_state(
    tmp_path: Path, parts: Split, setting: str, before: Callable[[], Any], after: Callable[[], Any]
) -> None:
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL, **{setting: before()})
    segue.train("gru4rec", parts, folder=tmp_path, **SMALL, **{setting: before()})
    with pytest.raises(ValueError, match=rf"checkpoint of another training.*\n(.*\n)*  {setting}: "):
        segue.train("gru4rec", parts, folder=tmp_path, **SMALL, **{setting: after()})


def test_a_folder_is_not_reused_after_a_global_variable_of_the_loss_has_changed(
    tmp_path: Path, parts: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    segue.train("gru4rec", parts, folder=tmp_path, loss=scaled_by_a_global, **SMALL)
    segue.train("gru4rec", parts, folder=tmp_path, loss=scaled_by_a_global, **SMALL)
    monkeypatch.setattr(f"{__name__}.SCALE", 2.0)
    with pytest.raises(ValueError, match="checkpoint of another training"):
        segue.train("gru4rec", parts, folder=tmp_path, loss=scaled_by_a_global, **SMALL)


class Unreadable:
    def __float__(self) -> float:
        return 1.0

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError


def test_a_function_that_cannot_be_compared_is_reported_and_its_folder_is_not_reused(
    tmp_path: Path, parts: Split
) -> None:
    loss = scaled(Unreadable())
    reason = (
        r"the loss \S+:scaled\.<locals>\.loss: the variable 'scale' of \S+ is a Unreadable, which cannot be compared"
    )
    with pytest.warns(SegueWarning, match=rf"train: folder=: an interrupted training cannot be resumed: {reason}"):
        segue.train("gru4rec", parts, folder=tmp_path, loss=loss, **SMALL)
    with pytest.raises(ValueError, match=rf"\n  loss: {reason}, so it may have changed"):
        segue.train("gru4rec", parts, folder=tmp_path, loss=loss, **SMALL)


def test_the_folder_of_a_run_or_of_a_saved_model_is_not_the_folder_of_a_training(
    tmp_path: Path, parts: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    plan = make_plan(
        {"model": "gru4rec", "data": "simulated?users=60&items=40&seed=3"},
        ["epochs=1", "embedding_dim=8", "hidden_dim=8"],
        "none",
    )
    run = create_run(plan, tmp_path / "runs" / "one")
    with pytest.raises(ValueError, match=r"is the folder of a run; resume it with: segue train --resume .*one"):
        segue.train("gru4rec", parts, folder=run, **SMALL)
    run_plan(plan, run, log=lambda _: None)
    history = (run / "history.jsonl").read_bytes()
    for name in ("gru4rec", "popular"):
        with pytest.raises(ValueError, match=r"folder: '.*one' is the folder of a run"):
            segue.train(name, parts, folder=run, **(SMALL if name == "gru4rec" else {}))
    assert (run / "history.jsonl").read_bytes() == history
    assert not (run / "training.json").exists()
    segue.save(segue.train("popular", parts), tmp_path / "saved")
    with pytest.raises(ValueError, match=r"folder: '.*saved' is the folder of a saved model, expected a new folder"):
        segue.train("gru4rec", parts, folder=tmp_path / "saved", **SMALL)
    segue.load("simulated?users=60&items=40&seed=3", log=None)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"folder: '.*file' is a file, expected a new folder"):
        segue.train("gru4rec", parts, folder=tmp_path / "file", **SMALL)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "history.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match=r"has a history.jsonl and no training.json, so it belongs to something else"):
        segue.train("gru4rec", parts, folder=tmp_path / "other", **SMALL)
    assert (tmp_path / "other" / "history.jsonl").read_text() == "mine\n"


def test_a_run_is_not_resumed_after_its_settings_were_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    plan = make_plan(
        {"model": "gru4rec", "data": "simulated?users=60&items=40&seed=3"},
        ["epochs=1", "embedding_dim=8", "hidden_dim=8"],
        "none",
    )
    run = create_run(plan, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("segue.experiment.run_experiment.bundle.save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan, run, log=lambda _: None)
    text = (run / "settings.toml").read_text()
    assert "\nepochs = 1\n" in text
    (run / "settings.toml").write_text(text.replace("\nepochs = 1\n", "\nepochs = 2\n"))
    status, _, err = call(capsys, "train", "--resume", str(run))
    assert status == 2
    assert "holds a checkpoint of another training" in err
    assert "training.epochs: 2 here, 1 there" in err
    assert (run / "checkpoint").exists()


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_finished_run_is_not_evaluated_after_its_settings_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_cut: bool
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    data, run = "simulated?users=60&items=40&seed=3", tmp_path / "run"
    ratio = ("--set", "split.strategy=per_user_ratio", "--set", "split.test=0.3")
    assert call(capsys, "train", "popular", "--data", data, "--out", run, *ratio)[0] == 0
    settings = run / "settings.toml"
    text = settings.read_text()
    assert "\ntest = 0.3\n" in text
    settings.write_text(text[: text.index("\n[split]")] if is_cut else text.replace("\ntest = 0.3\n", "\ntest = 0.6\n"))
    for command in (("evaluate", run), ("evaluate", run, "--audit"), ("recommend", run, "--user", "u01")):
        status, _, err = call(capsys, *command)
        assert status == 2
        assert "settings.toml: sha256" in err
        assert "the settings have changed since the training" in err
    with pytest.raises(ValueError, match=r"settings\.toml: sha256 .* the settings have changed"):
        segue.evaluate(str(run))
    settings.write_text(text)
    assert call(capsys, "evaluate", run)[0] == 0


@pytest.mark.parametrize("text", ["[]", "{}", "{broken"])
def test_a_damaged_manifest_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    run = tmp_path / "run"
    assert call(capsys, "train", "popular", "--data", "simulated?users=60&items=40&seed=3", "--out", run)[0] == 0
    (run / "manifest.json").write_text(text)
    for command in ("verify", "evaluate"):
        status, _, err = call(capsys, command, run)
        assert status == 2
        assert "manifest.json" in err
        assert "Traceback" not in err
