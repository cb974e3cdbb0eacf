"""Training from Python: callbacks, functions as loss and metric, whole datasets, and runs that are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segue
from segue.core.types import Split
from segue.training.callbacks import Callback, TrainingState

SMALL: dict[str, Any] = {"embedding_dim": 8, "hidden_dim": 8, "recipe": "none"}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGUE_HOME", str(tmp_path_factory.mktemp("home")))
        return segue.split("simulated?users=60&items=40&seed=2")


class StopAfterTwo(Callback):
    def on_epoch_end(self, state: TrainingState) -> None:
        if state.epoch == 2:
            state.request_stop()


def softmax_loss(hidden_MD: Any, vectors_ID: Any, bias_I: Any, targets_M: Any, seen: Any) -> Any:
    logits_MI = hidden_MD @ vectors_ID.T + (0 if bias_I is None else bias_I)
    return torch.nn.functional.cross_entropy(logits_MI, targets_M)


def test_callbacks_and_a_loss_function(split: Split) -> None:
    model = segue.train("gru4rec", split, epochs=5, callbacks=[StopAfterTwo()], loss=softmax_loss, **SMALL)
    assert len(model.training_history) == 2
    assert "epochs=2" in repr(model)
    named = segue.train("gru4rec", split, epochs=2, **SMALL)
    np.testing.assert_allclose(
        [line["loss"] for line in model.training_history],
        [line["loss"] for line in named.training_history],
        rtol=1e-3,
    )


def test_a_metric_by_name_or_as_a_function(split: Split) -> None:
    from segue.evaluation.metrics import recall

    named = segue.train("gru4rec", split, epochs=1, metric="recall@5", **SMALL)
    assert "valid/recall@5" in named.training_history[0]

    def first_five(ranks: Any, k: int) -> Any:
        return recall(ranks, 5)

    model = segue.train("gru4rec", split, epochs=1, metric=first_five, **SMALL)
    values = [value for name, value in model.training_history[0].items() if "first_five" in name]
    assert values == [named.training_history[0]["valid/recall@5"]]


def test_a_dataset_trains_on_everything(split: Split) -> None:
    model = segue.train("gru4rec", split.train, epochs=1, **SMALL)
    assert not [name for name in model.training_history[0] if name.startswith("valid/")]
    assert model.log is split.train


def test_a_run_recommends_after_its_whole_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segue.cli import main

    monkeypatch.setenv("SEGUE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as left:
        main(["train", "ease", "--data", "simulated?users=40&items=200&mean_length=12", "--out", str(tmp_path / "run")])
    assert not left.value.code
    model = segue.open(tmp_path / "run")
    whole = segue.load("simulated?users=40&items=200&mean_length=12")
    assert model.log.histories.size == whole.histories.size
    assert model.train_log.histories.size == whole.histories.size - 2 * 40
    assert segue.recommend(model, k=3).equals(segue.recommend(model, data=whole, k=3))
