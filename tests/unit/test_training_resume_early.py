"""A run that was interrupted before its first validation still chooses its best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from segue.core.model import Model, Recommender
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Vocab
from segue.training.callbacks import Callback, TrainingState
from segue.training.settings import Training
from segue.training.train import train

SMALL = {"embedding_dim": 4, "max_length": 4, "dropout": 0.0}


def world() -> Dataset:
    rows = [[(user + step) % 9 for step in range(4)] for user in range(10)]
    return Dataset("walk", Vocab([f"u{u}" for u in range(10)]), Vocab([str(i) for i in range(9)]), Events.of(rows))


def test_a_run_interrupted_in_its_first_epoch_keeps_the_best_later_one(tmp_path: Path) -> None:
    values = [0.4, 0.9, 0.1]

    def fit(run: Run, interrupt_at: int = 0) -> Model:
        class Interrupt(Callback):
            def on_step_end(self, state: TrainingState) -> None:
                run.interrupted = state.n_updates == interrupt_at

        def validate(model: Recommender) -> Mapping[str, float]:
            return {"ndcg@10": values[len(run.history())]}

        training = Training(epochs=3, batch_size=4, learning_rate=0.05)
        return train("gru4rec", SMALL, training, world(), run, validate, [Interrupt()])

    whole = fit(Run(0, tmp_path / "whole"))
    with pytest.raises(Interrupted, match="in epoch 1 after 2 of 3"):
        fit(Run(0, tmp_path / "parts"), interrupt_at=2)
    resumed = fit(Run(0, tmp_path / "parts"))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(resumed.arrays()[name], array)
    last = train("gru4rec", SMALL, Training(epochs=3, batch_size=4, learning_rate=0.05), world(), Run(0), None)
    assert any(not np.array_equal(array, last.arrays()[name]) for name, array in whole.arrays().items())
