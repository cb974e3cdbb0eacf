"""What a training reports while it runs: seconds, rates, progress, and when it writes checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from segue.core.model import Recommender
from segue.core.model_arrays import NonFiniteScoreError
from segue.core.registry import model_class
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Vocab
from segue.training import checkpoint, loop
from segue.training.callbacks import Callback, EarlyStopping, PlateauSchedule, ProgressBar, TrainingState
from segue.training.checkpoint import Checkpointer, Position
from segue.training.optim import learning_rate
from segue.training.settings import Training
from segue.training.train import train

N_ITEMS = 9
SMALL = {"embedding_dim": 4, "max_length": 4, "dropout": 0.0}


def world(users: int = 10) -> Dataset:
    """Ten histories of four events: four targets each."""
    rows = [[(user + step) % N_ITEMS for step in range(4)] for user in range(users)]
    return Dataset(
        "walk", Vocab([f"u{u}" for u in range(users)]), Vocab([str(i) for i in range(N_ITEMS)]), Events.of(rows)
    )


def state(epoch: int, batch: int, loss: float = 1.0) -> TrainingState:
    model: Any = None
    return TrainingState(model, epoch, 9, batch, 0, loss)


def validate(model: Recommender) -> Mapping[str, float]:
    return {"ndcg@10": 0.25}


def test_an_epoch_reports_its_seconds_and_targets_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves by one second per reading: before the epoch, after each of 3 batches, and after the epoch."""
    clock = count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    logged: list[Mapping[str, float]] = []
    tracker: Any = SimpleNamespace(log=lambda step, values: logged.append(values))
    training = Training(epochs=2, batch_size=4, validate_every=2)
    train("gru4rec", SMALL, training, world(), Run(0, trackers=(tracker,)), validate)
    assert [values["seconds"] for values in logged] == [4.0, 4.0]
    assert [values["targets_per_second"] for values in logged] == [40 / 4.0] * 2
    assert "validation_seconds" not in logged[0]
    assert logged[1]["validation_seconds"] == 1.0
    assert logged[1]["valid/ndcg@10"] == 0.25


def test_a_checkpoint_within_an_epoch_has_its_seconds_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed epoch continues to count from there."""
    clock = count(1000)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    positions: list[dict[str, Any]] = []
    monkeypatch.setattr(Run, "save_checkpoint", lambda self, metadata, arrays: positions.append(metadata["position"]))
    monkeypatch.setattr(Run, "resume", lambda self: None)
    training = Training(epochs=1, batch_size=4, checkpoint_seconds=1e-9)
    train("gru4rec", SMALL, training, world(), Run(0))
    assert [(at["epoch"], at["batch"], at["seconds"]) for at in positions] == [
        (0, 1, 1.0),
        (0, 2, 2.0),
        (0, 3, 3.0),
        (1, 0, 0.0),
    ]


@pytest.mark.parametrize(
    ("epochs", "every", "expected"), [(3, 2, [2, 3]), (4, 2, [2, 4]), (2, 5, [2]), (3, 1, [1, 2, 3])]
)
def test_validation_runs_every_so_many_epochs_and_after_the_last(epochs: int, every: int, expected: list[int]) -> None:
    logged: list[tuple[int, Mapping[str, float]]] = []
    tracker: Any = SimpleNamespace(log=lambda step, values: logged.append((step, values)))
    training = Training(epochs=epochs, batch_size=4, validate_every=every)
    train("gru4rec", SMALL, training, world(), Run(0, trackers=(tracker,)), validate)
    assert [step for step, _ in logged] == list(range(1, epochs + 1))
    assert [step for step, values in logged if "valid/ndcg@10" in values] == expected


def test_the_loss_of_an_epoch_is_the_mean_over_its_targets() -> None:
    """The loss of each batch is here its number of targets, and gradients are zero."""
    logged: list[Mapping[str, float]] = []
    tracker: Any = SimpleNamespace(log=lambda step, values: logged.append(values))
    seen: list[tuple[int, float]] = []

    class Losses(Callback):
        def on_train_start(self, state: TrainingState) -> None:
            assert math.isnan(state.loss)

        def on_step_end(self, state: TrainingState) -> None:
            seen.append((state.batch, state.loss))

    sizes: list[int] = []

    def loss(hidden: Tensor, vectors: Tensor, bias: Any, targets: Tensor, seen_items: Any) -> Tensor:
        sizes.append(len(targets))
        return (hidden * 0).sum() + float(len(targets))

    training = Training(loss=loss, epochs=2, batch_size=4)  # type: ignore[arg-type]
    train("gru4rec", SMALL, training, world(), Run(0, trackers=(tracker,)), None, [Losses()])
    for epoch in range(2):
        own = sizes[3 * epoch : 3 * epoch + 3]
        means = [sum(n * n for n in own[:at]) / sum(own[:at]) for at in (1, 2, 3)]
        assert [loss for _, loss in seen[3 * epoch : 3 * epoch + 3]] == pytest.approx(means)
        assert logged[epoch]["loss"] == pytest.approx(means[-1])
        assert logged[epoch]["learning_rate"] == 1e-3


def test_the_progress_bar_advances_by_batches_and_shows_losses() -> None:
    shown: list[tuple[Any, ...]] = []
    stopping = EarlyStopping("ndcg@10", 3)
    bar = ProgressBar(lambda *parts: shown.append(parts), stopping, n_batches=10)
    bar.on_train_start(state(2, 4))
    bar.on_step_end(state(3, 6, 0.5))
    bar.on_step_end(state(3, 10, 0.25))
    stopping.best, stopping.best_epoch = -0.75, 1
    bar.on_step_end(state(4, 1, 0.125))
    assert shown == [
        (24,),
        (2, "epoch 3 loss 0.500"),
        (4, "epoch 3 loss 0.250"),
        (1, "epoch 4 loss 0.125 ndcg@10 0.7500"),
    ]


def test_a_training_fills_its_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[int, str]] = []
    totals: list[tuple[Any, ...]] = []

    @contextmanager
    def progress(self: Run, total: int, title: str, unit: str = "items") -> Iterator[Any]:
        totals.append((total, unit))
        yield lambda by, note="": shown.append((by, note))

    monkeypatch.setattr(Run, "progress", progress)
    train("gru4rec", SMALL, Training(epochs=2, batch_size=4), world(), Run(0))
    assert totals == [(6, "batches")]
    assert [by for by, _ in shown] == [0, 1, 1, 1, 1, 1, 1]
    assert [note.split(" loss")[0] for _, note in shown] == ["", *["epoch 1"] * 3, *["epoch 2"] * 3]


def test_checkpoints_within_an_epoch_are_written_at_intervals_and_on_interruption(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, saved = [100.0], list[float]()
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now[0]))
    run: Any = SimpleNamespace(interrupted=False, save_checkpoint=lambda metadata, arrays: saved.append(now[0]))
    model: Any = SimpleNamespace(arrays=dict)
    optimizer: Any = SimpleNamespace(state_dict=lambda: {"state": {}})
    stopping = EarlyStopping("ndcg@10", 3)
    at = Checkpointer(run, model, optimizer, None, stopping, PlateauSchedule(stopping, 2), Position(), 10.0)
    now[0] = 200.0
    at.on_train_start(state(0, 0))
    for now[0] in (205.0, 210.0, 210.5, 220.0, 221.0):
        at.on_step_end(state(1, 1))
    assert saved == [210.5, 221.0]
    now[0] = 222.0
    at.on_epoch_end(state(1, 1))
    now[0] = 231.5
    at.on_step_end(state(1, 1))
    run.interrupted = True
    at.on_step_end(state(1, 1))
    assert saved == [210.5, 221.0, 222.0, 231.5]


def test_schedules_at_more_points_than_the_ends() -> None:
    def rate_at(schedule: str, epoch: float, n_reductions: int = 0, **more: float) -> float:
        training = Training(epochs=100, learning_rate=2.0, schedule=schedule, **more)  # type: ignore[arg-type]
        return learning_rate(training, epoch, n_reductions)

    assert rate_at("cosine", 25) == pytest.approx(2 * (0.01 + 0.99 * (1 + 2**-0.5) / 2))
    assert rate_at("cosine", 100) == rate_at("cosine", 130) == pytest.approx(2 * 0.01)
    assert [rate_at("one_cycle", epoch) for epoch in (15, 65)] == pytest.approx([2 * (0.01 + 0.99 / 2)] * 2)
    assert rate_at("one_cycle", 7.5) == pytest.approx(2 * (0.01 + 0.99 * (1 - 2**-0.5) / 2))
    assert rate_at("one_cycle", 47.5) == pytest.approx(2 * (0.01 + 0.99 * (1 + 2**-0.5) / 2))
    assert rate_at("step", 7.9, lr_step_epochs=4) == 1.0
    assert rate_at("step", 8, lr_step_epochs=4) == 0.5
    assert rate_at("plateau", 50, n_reductions=3, lr_step_factor=0.1) == pytest.approx(0.002)
    assert rate_at("constant", 4, warmup=4) == rate_at("constant", 8, warmup=4) == 2.0
    assert rate_at("cosine", 2, warmup=4) == pytest.approx(rate_at("cosine", 2) / 2)
    assert rate_at("constant", 0.5, warmup=0.25) == 2.0


@pytest.mark.parametrize(("ema", "best"), [(0.0, False), (0.5, False), (0.0, True), (0.5, True)])
def test_a_trained_network_is_in_evaluation_mode_and_finalized_with_its_final_weights(
    ema: float, best: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    finalized: list[tuple[bool, Any]] = []

    def finalize(self: Any) -> None:
        finalized.append((self.training, {name: array.copy() for name, array in self.arrays().items()}))

    monkeypatch.setattr(model_class("gru4rec"), "finalize", finalize)
    values = iter([0.9, 0.5, 0.1])
    training = Training(epochs=3, batch_size=4, ema=ema)
    model: Any = train(
        "gru4rec", SMALL, training, world(), Run(0), (lambda model: {"ndcg@10": next(values)}) if best else None
    )
    assert not model.training
    assert len(finalized) == (4 if best else 1)
    assert not any(is_training for is_training, _ in finalized)
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(finalized[-1][1][name], array)
        if best:
            np.testing.assert_array_equal(finalized[0][1][name], array)


def test_a_validation_that_finds_scores_that_are_not_finite_names_epoch_and_settings() -> None:
    count_validations = count(1)

    def diverge(model: Recommender) -> Mapping[str, float]:
        if next(count_validations) == 2:
            raise NonFiniteScoreError("score of item 3 is nan")
        return {"ndcg@10": 0.5}

    with pytest.raises(
        ValueError, match=r"training diverged, after epoch 2: score of item 3 is nan.*learning_rate=0\.02"
    ):
        train("gru4rec", SMALL, Training(epochs=4, batch_size=4, learning_rate=0.02), world(), Run(0), diverge)


def test_a_loss_that_is_not_finite_names_epoch_and_batch() -> None:
    batches = count(1)

    def loss(hidden: Tensor, vectors: Tensor, bias: Any, targets: Tensor, seen_items: Any) -> Tensor:
        return hidden.sum() * (math.inf if next(batches) == 5 else 1.0)

    with pytest.raises(
        ValueError, match=r"diverged in epoch 2, batch 2: loss -?(inf|nan), gradient norm .*learning rate 0\.001"
    ):
        train("gru4rec", SMALL, Training(loss=loss, epochs=4, batch_size=4), world(), Run(0))  # type: ignore[arg-type]


def test_an_interruption_names_epoch_and_batches() -> None:
    run = Run(0)

    class Interrupt(Callback):
        def on_step_end(self, state: TrainingState) -> None:
            run.interrupted = state.n_updates == 5

    with pytest.raises(Interrupted, match="stopped in epoch 2 after 2 of 3 batches"):
        train("gru4rec", SMALL, Training(epochs=4, batch_size=4), world(), run, None, [Interrupt()])


def test_the_learning_rate_follows_the_batches_of_an_epoch() -> None:
    """Over two epochs of warmup the last of three batches has the rate at 2/3 and at 5/3 of them."""
    logged: list[float] = []
    tracker: Any = SimpleNamespace(log=lambda step, values: logged.append(values["learning_rate"]))
    training = Training(epochs=3, batch_size=4, learning_rate=0.06, warmup=2.0)
    train("gru4rec", SMALL, training, world(), Run(0, trackers=(tracker,)))
    assert logged == pytest.approx([0.06 * (2 / 3) / 2, 0.06 * (5 / 3) / 2, 0.06])
