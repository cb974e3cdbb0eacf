"""Gradients of several batches are weighted by their targets and used in one step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segue.core.model import Model
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab
from segue.training.callbacks import Callback, TrainingState
from segue.training.settings import Training
from segue.training.train import train

N_ITEMS = 9
SETTINGS = {"embedding_dim": 4, "max_length": 8, "dropout": 0.0}


def world() -> Dataset:
    """Ten histories of two to eight events."""
    rows = [[(user * 2 + step) % N_ITEMS for step in range(2 + user * 3 % 7)] for user in range(10)]
    ids = Vocab([str(i) for i in range(N_ITEMS)])
    return Dataset("walk", Vocab([f"u{u}" for u in range(10)]), ids, Events.of(rows))


class Steps(Callback):
    """Record the batch and the number of updates at each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def on_step_end(self, state: TrainingState) -> None:
        self.steps.append((state.batch, state.n_updates))


def fit(steps: Steps | None = None, **values: Any) -> Model:
    base: dict[str, Any] = {"epochs": 1, "optimizer": "sgd", "learning_rate": 0.5, "clip_norm": 0.0}
    return train("gru4rec", SETTINGS, Training(**{**base, **values}), world(), Run(0), None, [steps] if steps else [])


@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.05}, {"loss": "focal"}], ids=str)
def test_one_step_of_three_batches_is_a_step_of_all_their_targets(more: dict[str, Any]) -> None:
    """Plain gradient descent shows the size of the gradient, which Adam does not."""
    whole, parts = fit(batch_size=10, **more).arrays(), fit(batch_size=4, gradient_accumulation=3, **more).arrays()
    start = fit(batch_size=10, **{**more, "learning_rate": 1e-12}).arrays()
    for name, array in whole.items():
        moved = np.abs(array - start[name]).max()
        assert np.abs(parts[name] - array).max() <= 1e-3 * moved, name
    assert max(np.abs(array - start[name]).max() for name, array in whole.items()) > 1e-3


@pytest.mark.parametrize(
    ("accumulation", "expected"),
    [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (4, [4, 5]), (5, [5]), (7, [5])],
)
def test_the_last_step_of_an_epoch_uses_the_remaining_batches(accumulation: int, expected: list[int]) -> None:
    steps = Steps()
    fit(steps, epochs=2, batch_size=2, gradient_accumulation=accumulation)
    assert [batch for batch, _ in steps.steps] == expected * 2
    assert [n for _, n in steps.steps] == list(range(1, 2 * len(expected) + 1))
