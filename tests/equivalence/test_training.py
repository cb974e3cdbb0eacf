"""The training loop: reproducibility, resumption, early stopping, schedules, callbacks and errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from segue.core.model import Model, Recommender
from segue.core.run import Interrupted, Run
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.training.callbacks import Callback, TrainingState
from segue.training.optim import FINAL_LR_FRACTION, learning_rate
from segue.training.settings_checks import UNSUPPORTED
from segue.training.train import Training, train

ITEMS = 12


def world(users: int = 40) -> Dataset:
    """Histories of consecutive items; the first item depends on the user."""
    rows = [[(user + step) % ITEMS for step in range(3 + user % 7)] for user in range(users)]
    ids = Vocab([str(i) for i in range(ITEMS)])
    return Dataset("walk", Vocab([f"u{u}" for u in range(users)]), ids, Events.of(rows))


TRAINING = Training(epochs=4, batch_size=8, learning_rate=0.01, schedule="one_cycle", loss="cross_entropy")
SMALL = {"embedding_dim": 8, "max_length": 6}


class Validation:
    """A metric that interrupts the run after ``stop_after`` validations."""

    def __init__(self, run: Run | None = None, stop_after: int = 0) -> None:
        self.run, self.left = run, stop_after

    def __call__(self, model: Recommender) -> Mapping[str, float]:
        self.left -= 1
        if self.run is not None and self.left == 0:
            self.run.interrupted = True
        return {"ndcg@10": float(-np.abs(model.score(Queries.anonymous(Events.of([[1, 2]])))).mean())}


def fit(key: str, run: Run, training: Training = TRAINING, validate: Validation | None = None) -> Model:
    return train(key, SMALL, training, world(), run, validate or Validation())


def assert_equal_arrays(first: Model, second: Model) -> None:
    for name, array in first.arrays().items():
        np.testing.assert_array_equal(array, second.arrays()[name], err_msg=name)


@pytest.mark.parametrize("key", ["sasrec", "xlstm", "gru4rec"])
@pytest.mark.parametrize("loss", ["cross_entropy", "gbce"])
def test_the_model_is_determined_by_the_seed(key: str, loss: str) -> None:
    training = TRAINING.model_copy(update={"loss": loss, "epochs": 2})
    first, second, other = (fit(key, Run(seed), training) for seed in (1, 1, 2))
    assert_equal_arrays(first, second)
    assert any((array != other.arrays()[name]).any() for name, array in first.arrays().items())


@pytest.mark.parametrize("key", ["sasrec", "xlstm"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_resumed_run_is_bit_identical(key: str, stop_after: int, tmp_path: Path) -> None:
    uninterrupted = Run(5, tmp_path / "whole")
    expected = fit(key, uninterrupted)
    run = Run(5, tmp_path / "parts")
    with pytest.raises(Interrupted, match="after 1 of 5 batches"):
        fit(key, run, validate=Validation(run, stop_after))
    resumed = Run(5, tmp_path / "parts")
    assert_equal_arrays(fit(key, resumed), expected)
    without_times = [{k: v for k, v in line.items() if "second" not in k} for line in resumed.history()]
    assert without_times == [{k: v for k, v in line.items() if "second" not in k} for line in uninterrupted.history()]


OPTIMIZERS = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and cls is not torch.optim.Optimizer and issubclass(cls, torch.optim.Optimizer)
)
VARIANTS = [
    *({"optimizer": name} for name in OPTIMIZERS if name.lower() not in UNSUPPORTED),
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.01},
    {"optimizer": "rmsprop", "momentum": 0.5},
    {"ema": 0.9},
    {"gradient_accumulation": 2},
    {"gradient_accumulation": 3, "ema": 0.9, "precision": "bfloat16", "loss": "gbce", "sampler": "popularity"},
    {"loss": "sampled_softmax", "sampler": "hard", "num_negatives": 3},
]


@pytest.mark.parametrize("more", VARIANTS, ids=lambda more: "-".join(map(str, more.values())))
def test_a_resumed_run_is_bit_identical_for_all_settings(more: dict[str, object], tmp_path: Path) -> None:
    training = Training(**{**TRAINING.model_dump(), "epochs": 2, **more})
    expected = fit("gru4rec", Run(5), training)
    run = Run(5, tmp_path)
    with pytest.raises(Interrupted, match=r"after [1-3] of 5 batches"):
        fit("gru4rec", run, training, Validation(run, 1))
    assert_equal_arrays(fit("gru4rec", Run(5, tmp_path), training), expected)


def test_a_killed_run_resumes_from_the_last_checkpoint(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Kill(Validation):
        def __call__(self, model: Recommender) -> Mapping[str, float]:
            self.left -= 1
            if self.left == 0:
                raise Killed
            return super().__call__(model)

    expected = fit("sasrec", Run(5, tmp_path / "whole"))
    kill = Kill()
    kill.left = 3
    with pytest.raises(Killed):
        fit("sasrec", Run(5, tmp_path / "parts"), validate=kill)
    assert_equal_arrays(fit("sasrec", Run(5, tmp_path / "parts")), expected)


def test_resuming_a_finished_run_does_not_train(tmp_path: Path) -> None:
    expected = fit("sasrec", Run(5, tmp_path))
    lines = Run(5, tmp_path).history()
    assert_equal_arrays(fit("sasrec", Run(5, tmp_path)), expected)
    assert Run(5, tmp_path).history() == lines


def test_diverging_training_raises() -> None:
    training = TRAINING.model_copy(update={"learning_rate": 1e30, "schedule": "constant", "clip_norm": 0.0})
    with pytest.raises(ValueError, match=r"diverged in epoch \d+, batch \d+: loss .*learning rate 1e\+30; try"):
        fit("sasrec", Run(0), training)


def test_early_stopping_restores_the_best_model() -> None:
    validated: list[Mapping[str, np.ndarray]] = []

    def decreasing_metric(model: Recommender) -> Mapping[str, float]:
        assert isinstance(model, Model)
        validated.append({name: array.copy() for name, array in model.arrays().items()})
        return {"ndcg@10": -float(len(validated))}

    training = TRAINING.model_copy(update={"patience": 2})
    model = train("sasrec", SMALL, training, world(), Run(0), decreasing_metric)
    assert len(validated) == 3
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, validated[0][name])


def test_unknown_validation_metric_raises() -> None:
    with pytest.raises(ValueError, match="'recall@99', expected one of the validation metrics: ndcg@10"):
        fit("sasrec", Run(0), TRAINING.model_copy(update={"metric": "recall@99"}))


def test_empty_training_data_raises() -> None:
    empty = world().with_histories(Events.of([[]] * 40))
    with pytest.raises(ValueError, match="nothing to train on"):
        train("sasrec", SMALL, TRAINING, empty, Run(0))


def test_training_preserves_the_random_state_of_torch() -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    fit("sasrec", Run(0), TRAINING.model_copy(update={"epochs": 1}))
    assert torch.rand(1) == expected


def test_averaged_weights_are_validated_and_returned() -> None:
    class Weights(Validation):
        def __call__(self, model: Recommender) -> Mapping[str, float]:
            assert isinstance(model, Model)
            validated.append({name: array.copy() for name, array in model.arrays().items()})
            return {"ndcg@10": float(len(validated))}

    runs = []
    for ema in (0.0, 0.8):
        validated: list[dict[str, np.ndarray]] = []
        training = Training(
            **{**TRAINING.model_dump(), "batch_size": 40, "epochs": 6, "ema": ema}
        )  # one step per epoch
        runs.append((validated, fit("gru4rec", Run(0), training, Weights())))
    (raw, _), (averaged, model) = runs
    mean_start = {name: array.copy() for name, array in initial_weights().items()}
    mean = mean_start
    for step, (weights, actual) in enumerate(zip(raw, averaged, strict=True), 1):
        decay = min(0.8, (1 + step) / (10 + step))
        mean = {name: decay * array + (1 - decay) * weights[name] for name, array in mean.items()}
        for name, array in mean.items():
            np.testing.assert_allclose(actual[name], array, rtol=1e-4, atol=1e-6, err_msg=f"{name} after {step}")
    assert_equal_arrays(model, type("Last", (), {"arrays": lambda self: averaged[-1]})())
    training = Training(**{**TRAINING.model_dump(), "batch_size": 40, "epochs": 6, "ema": 0.8})
    assert_equal_arrays(train("gru4rec", SMALL, training, world(), Run(0)), model)


def initial_weights() -> Mapping[str, np.ndarray]:
    """Return the initial weights of seed 0."""
    training = TRAINING.model_copy(update={"epochs": 1, "learning_rate": 0.0, "batch_size": 40})
    return train("gru4rec", SMALL, training, world(), Run(0)).arrays()


def test_gradient_accumulation_equals_a_large_batch() -> None:
    settings, same_steps = {**SMALL, "dropout": 0.0}, {"epochs": 3, "learning_rate": 1e-3}
    for schedule in ("constant", "one_cycle"):
        large_batch, accumulated = (
            train("gru4rec", settings, Training(schedule=schedule, **same_steps, **batch_settings), world(), Run(3))
            for batch_settings in ({"batch_size": 40}, {"batch_size": 10, "gradient_accumulation": 4})
        )
        for name, array in large_batch.arrays().items():
            np.testing.assert_allclose(accumulated.arrays()[name], array, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("key", ["sasrec", "xlstm", "gru4rec"])
def test_bfloat16_losses_are_close_to_float32(key: str) -> None:
    losses_by_precision = []
    for precision in ("float32", "bfloat16"):
        losses: list[float] = []
        tracker = type("Track", (), {"log": lambda self, step, values, losses=losses: losses.append(values["loss"])})()
        training = Training(**{**TRAINING.model_dump(), "precision": precision})
        model = train(key, SMALL, training, world(), Run(0, trackers=(tracker,)))
        assert {array.dtype for array in model.arrays().values()} == {np.dtype(np.float32)}
        losses_by_precision.append(losses)
    assert losses_by_precision[0] != losses_by_precision[1]
    np.testing.assert_allclose(losses_by_precision[0], losses_by_precision[1], rtol=0.02)


def test_learning_rate_schedules() -> None:
    def rate_at(schedule: str, epoch: float, n_reductions: int = 0, **more: float) -> float:
        return learning_rate(Training(epochs=100, learning_rate=1.0, schedule=schedule, **more), epoch, n_reductions)  # type: ignore[arg-type]

    assert rate_at("constant", 0) == rate_at("constant", 99) == 1.0
    assert rate_at("step", 9.9) == 1.0
    assert rate_at("step", 10) == 0.5
    assert rate_at("step", 29, lr_step_factor=0.1) == pytest.approx(0.01)
    assert rate_at("cosine", 0) == 1.0
    assert rate_at("cosine", 50) == pytest.approx((1 + FINAL_LR_FRACTION) / 2)
    assert rate_at("cosine", 100) == pytest.approx(FINAL_LR_FRACTION)
    assert rate_at("one_cycle", 0) == pytest.approx(FINAL_LR_FRACTION)
    assert rate_at("one_cycle", 30) == pytest.approx(1.0)
    assert rate_at("one_cycle", 100) == pytest.approx(FINAL_LR_FRACTION)
    assert rate_at("plateau", 50, n_reductions=2) == 0.25
    assert rate_at("constant", 1, warmup=4) == 0.25
    rates = [rate_at("one_cycle", e) for e in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert math.isclose(rates.index(max(rates)), 30)


class Recorder(Callback):
    """Record all hooks and request a stop after an epoch."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        self.hooks: list[tuple[str, int]] = []
        self.states: list[TrainingState] = []

    def on_train_start(self, state: TrainingState) -> None:
        self.hooks.append(("start", state.epoch))

    def on_step_end(self, state: TrainingState) -> None:
        self.hooks.append(("step", state.batch))

    def on_validation_end(self, state: TrainingState) -> None:
        assert state.validation.keys() == {"ndcg@10"}
        self.hooks.append(("validation", state.epoch))

    def on_epoch_end(self, state: TrainingState) -> None:
        self.hooks.append(("epoch", state.epoch))
        self.states.append(state)
        if state.epoch == self.stop_after:
            state.request_stop()

    def on_train_end(self, state: TrainingState) -> None:
        self.hooks.append(("end", state.epoch))


def test_a_callback_sees_every_epoch_and_changes_nothing(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"validate_every": 2})
    expected = fit("gru4rec", Run(5), training)
    recorder, run = Recorder(), Run(5, tmp_path)
    assert_equal_arrays(train("gru4rec", SMALL, training, world(), run, Validation(), [recorder]), expected)
    steps = [("step", batch) for batch in range(1, 6)]
    assert recorder.hooks == [
        ("start", 0),
        *(*steps, ("epoch", 1)),
        *(*steps, ("validation", 2), ("epoch", 2)),
        *(*steps, ("epoch", 3)),
        *(*steps, ("validation", 4), ("epoch", 4)),
        ("end", 4),
    ]
    assert [{"step": state.epoch, **state.metrics} for state in recorder.states] == run.history()
    assert [bool(state.validation) for state in recorder.states] == [False, True, False, True]
    assert recorder.states[-1].n_updates == 20


def test_a_callback_stops_training_and_a_resumed_run_stays_stopped(tmp_path: Path) -> None:
    recorder = Recorder(stop_after=2)
    stopped = train("gru4rec", SMALL, TRAINING, world(), Run(5, tmp_path), None, [recorder])
    assert recorder.hooks[-1] == ("end", 2)
    assert len(Run(5, tmp_path).history()) == 2
    assert_equal_arrays(train("gru4rec", SMALL, TRAINING, world(), Run(5, tmp_path)), stopped)
    assert len(Run(5, tmp_path).history()) == 2


def test_callbacks_of_a_model_that_is_not_a_network_are_an_error() -> None:
    with pytest.raises(ValueError, match="callbacks: got 1 for 'ease', which is not trained in epochs"):
        train("ease", {}, TRAINING, world(), Run(0), None, [Recorder()])
