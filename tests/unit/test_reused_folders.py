"""A folder continues only the training that it was created for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import segue
from segue.core.types import Split
from segue.experiment.plan import make_plan
from segue.experiment.run_experiment import run_plan
from segue.experiment.run_folder import create_run

SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "recipe": "none", "epochs": 1}


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
