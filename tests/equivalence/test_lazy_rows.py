"""Lazy updates of embedding rows equal those of ``torch.optim.SparseAdam``, and dense ones where every row occurs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from segue.core.events import Events
from segue.core.examples.fields import Examples, Field
from segue.core.run import Interrupted, Run
from segue.training.callbacks import Callback, TrainingState
from segue.training.gradients import GradientBuffer
from segue.training.settings import Training
from segue.training.train import train

FIELDS = (Field("user", "category", 6), Field("item", "category", 7), Field("history", "sequence", 7, shares="item"))


def examples(n_batches: int, size: int = 42, is_complete: bool = True) -> Examples:
    """Return examples of all pairs of user and item in each block of ``size``, or of a few pairs."""
    rng = np.random.default_rng(0)
    pairs = np.stack(np.divmod(np.arange(size), 7), axis=1)
    codes = np.concatenate([pairs if is_complete else rng.integers(0, (6, 7), (size, 2)) for _ in range(n_batches)])
    history = Events.of([rng.integers(7, size=rng.integers(4)).tolist() for _ in codes])
    labels = (rng.random(len(codes)) < 0.2 + 0.6 * (codes.sum(1) % 2)).astype(np.float32)
    return Examples(FIELDS, codes, np.zeros((len(codes), 0), np.float32), {"history": history}, labels=labels)


def trained(data: Examples, lazy_rows: int, run: Run | None = None, callback: Any = None, **options: Any) -> Any:
    config = {
        "embedding_dim": 3,
        "hidden": (4,),
        "dropout": 0.0,
        "batch_norm": False,
        "lazy_rows": lazy_rows,
        "embedding_l2": 0.01,
    }
    training = Training(**{"epochs": 4, "batch_size": len(data), "learning_rate": 0.05, "metric": "auc", **options})
    return train("deepfm", config, training, data, run or Run(0), callbacks=[callback] if callback else [])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.01, "ema": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "rmsprop"},
        {"optimizer": "adagrad"},
        {"batch_size": 42, "gradient_accumulation": 2},
    ],
)
def test_lazy_and_dense_updates_are_equal_if_every_row_occurs_in_every_step(options: dict[str, Any]) -> None:
    data = examples(2)
    dense, lazy = (trained(data, lazy_rows, **options).arrays() for lazy_rows in (0, 1))
    for name, array in dense.items():
        np.testing.assert_allclose(lazy[name], array, rtol=2e-4, atol=2e-6, err_msg=name)


def test_lazy_updates_are_those_of_sparse_adam() -> None:
    torch.manual_seed(0)
    table = nn.Embedding(9, 2, sparse=True)
    reference = nn.Embedding(9, 2, sparse=True)
    reference.load_state_dict(table.state_dict())
    adam = torch.optim.Adam(table.parameters(), lr=0.1, fused=True)
    sparse_adam = torch.optim.SparseAdam(reference.parameters(), lr=0.1)
    gradients = GradientBuffer(table, sparse=False, is_lazy=True)
    for step in range(6):
        codes = torch.randint(9, (4,)) if step % 3 else torch.zeros(0, dtype=torch.int64)
        gradients.clear()
        sparse_adam.zero_grad()
        for one in (table, reference):
            (one(codes) * torch.arange(2.0)).square().sum().backward()
        gradients.finish(1.0, 0.0)
        gradients.step(adam)
        if len(codes):  # SparseAdam counts steps without rows
            sparse_adam.step()
        torch.testing.assert_close(table.weight, reference.weight)
    assert adam.state[table.weight]["exp_avg"].shape == (9, 2)


def test_rows_that_do_not_occur_in_training_keep_their_initial_weights() -> None:
    data = examples(3)
    codes = np.array(data.codes)
    codes[codes == 5] = 4
    data = replace(data, codes=codes, lists={"history": data.lists["history"].take(np.zeros(len(data), np.int64))})
    first, last = (trained(data, 1, epochs=epochs, batch_size=20).embed.table.weight[5] for epochs in (1, 3))
    assert torch.equal(first, last)


class StopAt(Callback):
    def __init__(self, run: Run, step: int) -> None:
        self.run, self.step, self.n_steps = run, step, 0

    def on_step_end(self, state: TrainingState) -> None:
        self.n_steps += 1
        if self.n_steps == self.step:
            self.run.interrupted = True


def test_a_resumed_training_with_lazy_rows_is_bit_identical(tmp_path: Path) -> None:
    data = examples(3, is_complete=False)
    options: dict[str, Any] = {"batch_size": 16, "ema": 0.9}
    expected: dict[str, NDArray[Any]] = trained(data, 1, **options).arrays()
    run = Run(0, folder=tmp_path)
    with pytest.raises(Interrupted):
        trained(data, 1, run, StopAt(run, 5), **options)
    found = trained(data, 1, Run(0, folder=tmp_path), **options).arrays()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
