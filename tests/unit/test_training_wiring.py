"""Every training setting and every setting of windows and objectives changes the trained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segue.core.batches import SequenceBatch, training_batches
from segue.core.model import Model, Recommender, Validate
from segue.core.registry import exported_functions, model_class
from segue.core.run import Interrupted, Run
from segue.core.seen_items import SeenItems
from segue.core.types import Dataset, Events, Vocab
from segue.nn.losses import losses
from segue.nn.training_targets import next_item
from segue.training.callbacks import EarlyStopping, TrainingState
from segue.training.configured_loss import build_loss
from segue.training.loop import seed_devices
from segue.training.optim import build_optimizer
from segue.training.settings import Training
from segue.training.settings_checks import is_sampled
from segue.training.train import train

ITEMS = 12
SMALL: dict[str, Any] = {"embedding_dim": 8, "max_length": 5, "dropout": 0.0}
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 8, "learning_rate": 0.01}

SAMPLED = {"loss": "sampled_softmax", "num_negatives": 4}
CHANGES: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "epochs": [({}, 4)],
    "batch_size": [({}, 5)],
    "gradient_accumulation": [({}, 2)],
    "loss": [({}, name) for name in exported_functions(losses) if name != "cross_entropy"],
    "temperature": [({}, 0.5), ({"loss": "bpr"}, 0.5)],
    "label_smoothing": [({}, 0.2), ({"loss": "cross_entropy_pairwise"}, 0.2)],
    "focal_gamma": [({"loss": "focal"}, 1.0)],
    "pairwise_weight": [({"loss": f"{name}_pairwise"}, 0.1) for name in ("cross_entropy", "sampled_softmax")],
    "calibration": [({"loss": "gbce", "num_negatives": 4}, 0.1)],
    "score_penalty": [({"loss": "bpr_max"}, 10.0)],
    "num_negatives": [({"loss": name}, 3) for name in exported_functions(losses) if is_sampled(name)],
    "sampler": [(SAMPLED, name) for name in ("popularity", "in_batch", "mixed", "hard")],
    "sampler_alpha": [({**SAMPLED, "sampler": "popularity"}, 3.0)],
    "in_batch_fraction": [({**SAMPLED, "sampler": "mixed"}, 1.0)],
    "hard_pool_factor": [({**SAMPLED, "sampler": "hard"}, 2.0)],
    "optimizer": [({"weight_decay": 0.1}, "adamw"), ({}, "sgd"), ({}, "rmsprop"), ({}, "NAdam")],
    "betas": [({}, (0.5, 0.98)), ({}, (0.9, 0.5)), ({"optimizer": "adamw"}, (0.5, 0.98))],
    "momentum": [({"optimizer": "sgd"}, 0.9), ({"optimizer": "rmsprop"}, 0.9)],
    "learning_rate": [({}, 0.02)],
    "weight_decay": [({"optimizer": name}, 0.1) for name in ("adam", "adamw", "sgd", "rmsprop")],
    "schedule": [({}, name) for name in ("step", "cosine", "one_cycle", "plateau")],
    "warmup": [({}, 2.0)],
    "lr_step_epochs": [({"schedule": "step"}, 1), ({"schedule": "plateau"}, 1)],
    "lr_step_factor": [({"schedule": "step", "lr_step_epochs": 1}, 0.1)],
    "clip_norm": [({"optimizer": "sgd"}, 0.01), ({"optimizer": "sgd", "clip_norm": 0.01}, 0.0)],
    "ema": [({}, 0.9)],
    "precision": [({}, "bfloat16")],
    "patience": [({"patience": 3}, 1)],
    "metric": [({}, "mrr@10"), ({}, "rmse")],
    "validate_every": [({"patience": 1}, 2)],
}
"""By setting: further settings, and a value that changes the model they give."""


def world(users: int = 40, extra: int = 0) -> Dataset:
    """Histories of consecutive items with skips; their popularity is uneven."""
    rows = [
        [(user % 5 + step * (1 + user % 2)) % ITEMS for step in range(3 + user % 7 + extra)] for user in range(users)
    ]
    ids = Vocab([str(i) for i in range(ITEMS)])
    return Dataset("walk", Vocab([f"u{u}" for u in range(users)]), ids, Events.of(rows))


def scripted(**values: Sequence[float]) -> Validate:
    """Return a validation with the given values of each metric, in turn; the last one repeats."""
    count = iter(range(1000))

    def validate(model: Recommender) -> Mapping[str, float]:
        at = next(count)
        return {name.replace("_at_", "@"): series[min(at, len(series) - 1)] for name, series in values.items()}

    return validate


def fit(values: Mapping[str, Any], validate: Validate | None = None, data: Dataset | None = None, **more: Any) -> Model:
    training = Training(**{**QUICK, **values})
    return train("gru4rec", {**SMALL, **more}, training, data or world(), Run(0), validate)


def is_equal(first: Model, second: Model) -> bool:
    return all(np.array_equal(array, second.arrays()[name]) for name, array in first.arrays().items())


@pytest.fixture(autouse=True)
def any_metric_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the validation functions of the tests return errors for a network that predicts no ratings."""
    monkeypatch.setattr(model_class("gru4rec"), "predicts_ratings", True, raising=False)


def test_every_training_setting_is_covered() -> None:
    """Only the time of checkpoints has no effect on the model."""
    assert CHANGES.keys() == Training.model_fields.keys() - {"checkpoint_seconds"}


@pytest.mark.parametrize(
    ("name", "base", "value"),
    [(name, base, value) for name, cases in CHANGES.items() for base, value in cases],
    ids=lambda part: "-".join(map(str, part.values())) if isinstance(part, dict) else str(part),
)
def test_a_training_setting_changes_the_trained_model(name: str, base: dict[str, Any], value: Any) -> None:
    def validate() -> Validate | None:
        if name in ("patience", "validate_every", "metric"):  # each metric has another best epoch
            return scripted(ndcg_at_10=[0.2, 0.1, 0.3], mrr_at_10=[0.1, 0.3, 0.2], rmse=[1.0, 0.5, 2.0])
        if base.get("schedule") == "plateau" or value == "plateau":
            return scripted(ndcg_at_10=[0.9, 0.1, 0.1, 1.0])
        return None

    more = {"lr_step_epochs": 1} if name == "schedule" and value in ("step", "plateau") else {}
    more |= {"epochs": 4} if "plateau" in (base.get("schedule"), value) else {}
    base = {**base, **({"epochs": 4} if more.get("epochs") else {})}
    before, after = fit(base, validate()), fit({**base, **more, name: value}, validate())
    assert not is_equal(before, after)
    assert is_equal(before, fit(base, validate())), "the comparison itself is not deterministic"


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"embedding_dim": 4}),
        ({}, {"max_length": 3}),
        ({}, {"windows": "all"}),
        ({}, {"objective": "all_action"}),
        ({"objective": "all_action"}, {"horizon": 1}),
        ({}, {"mask_seen": True}),
        ({}, {"dropout": 0.3}),
        ({}, {"item_bias": True}),
        ({}, {"hidden_dim": 7}),
        ({}, {"num_layers": 2}),
        ({"num_layers": 2, "dropout": 0.2}, {"dropout": 0.4}),
    ],
    ids=str,
)
def test_a_model_setting_changes_the_trained_model(base: dict[str, Any], change: dict[str, Any]) -> None:
    data = world(extra=4)
    before, after = fit({}, data=data, **base), fit({}, data=data, **{**base, **change})
    assert after.arrays().keys() != before.arrays().keys() or any(
        array.shape != after.arrays()[name].shape or not np.array_equal(array, after.arrays()[name])
        for name, array in before.arrays().items()
    )


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_weight_decay_shrinks_matrices_and_spares_vectors(optimizer: str) -> None:
    layer = nn.Linear(3, 2)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 2.0)
    built = build_optimizer(layer, Training(optimizer=optimizer, weight_decay=0.5, learning_rate=0.1))
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    built.step()
    assert torch.equal(layer.bias, torch.full((2,), 2.0))
    expected = {"sgd": 2.0 - 0.1 * 0.5 * 2.0, "adamw": 2.0 - 0.1 * 0.5 * 2.0, "adam": 1.9}.get(optimizer)
    if expected is None:  # RMSprop divides the gradient 1 by the root of a hundredth of its square
        expected = 2.0 - 0.1 * 10
    torch.testing.assert_close(layer.weight.detach(), torch.full((2, 3), expected), rtol=1e-4, atol=0)


# windows and seen items


def first_batch(model: Any, data: Dataset, seed: int = 0) -> SequenceBatch:
    return next(iter(model.batches(data, 64, np.random.default_rng(seed))[1]))


@pytest.mark.parametrize("key", ["sasrec", "bert4rec", "gru4rec", "xlstm"])
@pytest.mark.parametrize("windows", ["last", "all"])
def test_windows_all_trains_on_the_whole_history(key: str, windows: str) -> None:
    events = Events.of([list(range(12))])
    data = Dataset("one", Vocab(["u"]), Vocab([str(i) for i in range(ITEMS)]), events)
    kind: Any = model_class(key)
    config = kind.Config(
        **{**SMALL, "windows": windows, "num_heads": 2} if key != "gru4rec" else {**SMALL, "windows": windows}
    )
    model = kind(config, data.schema)
    items = {int(item) for item in first_batch(model, data).items_BL.flatten()}
    targets = {int(item) for item in first_batch(model, data).targets_M}
    shown = {item for item in items | targets if item < ITEMS}
    oldest = 0 if windows == "all" else 12 - SMALL["max_length"] - 1
    assert min(shown) >= oldest
    assert (min(shown) == 0) == (windows == "all")


def test_windows_all_cuts_at_a_new_random_position_in_each_epoch() -> None:
    length, histories = 5, Events.of([list(range(20))])
    newest = set()
    for seed in range(60):
        _, batches = training_batches(
            histories, 20, length, 64, np.random.default_rng(seed), next_item, all_windows=True, pool=1
        )
        batch = next(iter(batches))
        assert sorted(batch.targets_M.tolist()) == list(range(20)), "every event is a target once"
        ends_with_last = (batch.targets_M == 19).nonzero()[0, 0]
        row = batch.positions_M[ends_with_last] // batch.items_BL.shape[1]
        newest.add(int(batch.lengths_B[row]))
    assert newest == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("key", ["sasrec", "bert4rec", "gru4rec", "xlstm"])
@pytest.mark.parametrize("mask_seen", [False, True])
def test_mask_seen_hands_the_items_seen_before_each_target_to_the_loss(key: str, mask_seen: bool) -> None:
    kind: Any = model_class(key)
    model = kind(kind.Config(**{**SMALL, "mask_seen": mask_seen}), world().schema)
    given: list[SeenItems | None] = []

    def loss(hidden: Tensor, vectors: Tensor, bias: Tensor | None, targets: Tensor, seen: SeenItems | None) -> Tensor:
        given.append(seen)
        return hidden.sum()

    model.objective(first_batch(model, world()), loss)
    (seen,) = given
    assert (seen is not None) == mask_seen
    if seen is not None:
        batch = first_batch(model, world())
        mask = seen.catalog_mask(0, len(batch.targets_M), ITEMS)
        assert mask.any()
        assert mask.shape == (len(batch.targets_M), ITEMS)


@pytest.mark.parametrize("name", exported_functions(losses))
def test_a_seen_item_is_no_negative_of_any_loss(name: str) -> None:
    """The history is 1, 2, the target 3: the loss has a gradient for all items but 1 and 2."""
    training = Training(loss=name, **({"num_negatives": 4000} if is_sampled(name) else {}))
    loss = build_loss(training, world(), "cpu")
    generator = torch.Generator().manual_seed(0)
    hidden, vectors = torch.randn(1, 4, generator=generator), torch.randn(ITEMS, 4, generator=generator)
    bias, target = torch.zeros(ITEMS), torch.tensor([3])
    seen = SeenItems(
        torch.tensor([1, 2]),
        torch.tensor([0, 0]),
        torch.tensor([0, 1], dtype=torch.int32),
        torch.tensor([0]),
        torch.tensor([2], dtype=torch.int32),
    )
    for given, expected in ((None, set()), (seen, {1, 2})):
        leaf = vectors.clone().requires_grad_()
        torch.manual_seed(0)
        loss(hidden, leaf, bias, target, given).backward()
        assert leaf.grad is not None
        assert {item for item in range(ITEMS) if not leaf.grad[item].any()} == expected


@pytest.mark.parametrize("listwise", ["cross_entropy", "sampled_softmax"])
def test_the_pairwise_weight_is_that_of_the_pairwise_part(listwise: str) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 4, generator=generator), torch.randn(ITEMS, 4, generator=generator), None, torch.arange(3)

    def value(name: str, **settings: Any) -> Tensor:
        needs_negatives = {"num_negatives": 5} if is_sampled(name) else {}
        torch.manual_seed(0)
        return build_loss(Training(loss=name, **needs_negatives, **settings), world(), "cpu")(*batch)

    both = f"{listwise}_pairwise"
    parts = value(listwise), value("bpr")
    assert parts[0] != pytest.approx(parts[1])
    for weight in (0.0, 0.25, 1.0):
        expected = (1 - weight) * parts[0] + weight * parts[1]
        torch.testing.assert_close(value(both, pairwise_weight=weight), expected)


# the best epoch


@pytest.mark.parametrize(("metric", "best"), [("rmse", 2), ("mae", 2), ("ndcg@10", 3), ("recall@10", 3)])
def test_the_best_epoch_has_the_lowest_error_or_the_highest_ranking_metric(metric: str, best: int) -> None:
    validated: list[dict[str, np.ndarray]] = []
    values = [1.0, 0.5, 2.0]

    def validate(model: Recommender) -> Mapping[str, float]:
        assert isinstance(model, Model)
        validated.append({name: array.copy() for name, array in model.arrays().items()})
        return {metric: values[len(validated) - 1]}

    model = fit({"metric": metric, "patience": 5}, validate)
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, validated[best - 1][name])


@pytest.mark.parametrize(("metric", "n_validations"), [("rmse", 4), ("ndcg@10", 3)])
def test_early_stopping_waits_while_an_error_falls(metric: str, n_validations: int) -> None:
    count = 0

    def validate(model: Recommender) -> Mapping[str, float]:
        nonlocal count
        count += 1
        return {metric: {1: 1.0, 2: 0.9}.get(count, 0.95)}

    fit({"metric": metric, "patience": 2, "epochs": 9}, validate)
    assert count == n_validations


def test_the_best_value_of_an_error_is_stored_negated() -> None:
    stopping = EarlyStopping("rmse", 2)
    model: Any = fit({"epochs": 1})
    for epoch, value in enumerate((1.5, 1.0, 1.2), 1):
        stopping.on_validation_end(TrainingState(model, epoch, 3, 0, 0, 0.0, validation={"rmse": value}))
    assert (stopping.best, stopping.best_epoch, stopping.n_without_improvement) == (-1.0, 2, 1)


def test_the_first_of_equally_good_epochs_is_the_best() -> None:
    validated: list[dict[str, np.ndarray]] = []

    def validate(model: Recommender) -> Mapping[str, float]:
        assert isinstance(model, Model)
        validated.append({name: array.copy() for name, array in model.arrays().items()})
        return {"ndcg@10": 0.5}

    model = fit({"patience": 2, "epochs": 9}, validate)
    assert len(validated) == 3
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(array, validated[0][name])


@pytest.mark.parametrize(("n_validations", "expected"), [(1, [0, 0, 1, 2, 3, 3]), (2, [0, 0, 0, 1, 1, 1])])
def test_a_plateau_reduces_the_rate_after_each_number_of_validations(n_validations: int, expected: list[int]) -> None:
    """The rate of an epoch follows from the validations before it; the fifth one improves."""
    rates: list[float] = []
    tracker: Any = type("Track", (), {"log": lambda self, step, values: rates.append(values["learning_rate"])})()
    training = Training(
        **{**QUICK, "epochs": 6, "schedule": "plateau", "lr_step_epochs": n_validations, "lr_step_factor": 0.1}
    )
    values = scripted(ndcg_at_10=[0.5, 0.4, 0.4, 0.4, 0.6, 0.1])
    train("gru4rec", SMALL, training, world(), Run(0, trackers=(tracker,)), values)
    assert rates == pytest.approx([0.01 * 0.1**n for n in expected])


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_a_resumed_run_remembers_its_best_epoch_patience_and_rate(
    interrupted_after: int, ema: float, tmp_path: Path
) -> None:
    """The second epoch is the best; two reductions later, the patience ends in the sixth."""
    values = [0.5, 0.9, 0.6, 0.7, 0.8, 0.85, 0.95]
    training = Training(
        **{**QUICK, "epochs": 7, "patience": 4, "schedule": "plateau", "lr_step_epochs": 2, "lr_step_factor": 0.1},
        ema=ema,
    )

    def run(name: str, stop_after: int) -> Model:
        at = Run(0, tmp_path / name)

        def validate(model: Recommender) -> Mapping[str, float]:
            epoch = len(at.history()) + 1
            at.interrupted = epoch == stop_after
            return {"ndcg@10": values[epoch - 1]}

        return train("gru4rec", {**SMALL, "dropout": 0.3}, training, world(), at, validate)

    expected = run("whole", 0)
    with pytest.raises(Interrupted):
        run("parts", interrupted_after)
    assert is_equal(run("parts", 0), expected)
    lines = [
        [(line["loss"], line["learning_rate"]) for line in Run(folder=tmp_path / n).history()]
        for n in ("whole", "parts")
    ]
    assert len(lines[0]) == 6
    assert lines[0] == lines[1]


# randomness


def test_batches_are_drawn_anew_in_each_epoch() -> None:
    order: list[list[int]] = []

    def loss(hidden: Tensor, vectors: Tensor, bias: Tensor | None, targets: Tensor, seen: SeenItems | None) -> Tensor:
        order.append(targets.tolist())
        return (hidden @ vectors.T).square().mean()

    fit({"loss": loss, "epochs": 3})
    per_epoch = len(order) // 3
    epochs = [order[start : start + per_epoch] for start in range(0, len(order), per_epoch)]
    assert len(epochs) == 3
    assert epochs[0] != epochs[1] != epochs[2]
    targets = {tuple(sorted(item for batch in batches for item in batch)) for batches in epochs}
    assert len(targets) == 1, "each epoch has the same targets"


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_dropout_is_drawn_anew_in_each_step_and_stays_on_after_a_validation(dropout: float) -> None:
    """With a tiny learning rate, equal histories and one batch, only dropout changes the loss."""
    ids = Vocab([str(i) for i in range(ITEMS)])
    data = Dataset("same", Vocab([f"u{u}" for u in range(8)]), ids, Events.of([[0, 1, 2, 3, 4]] * 8))
    losses: list[float] = []
    tracker: Any = type("Track", (), {"log": lambda self, step, values: losses.append(values["loss"])})()
    training = Training(epochs=4, batch_size=64, learning_rate=1e-9)
    values = scripted(ndcg_at_10=[0.1, 0.2, 0.3, 0.4])
    run = Run(0, trackers=(tracker,))
    train("gru4rec", {**SMALL, "dropout": dropout}, training, data, run, values)
    differences = [abs(a - b) for at, a in enumerate(losses) for b in losses[:at]]
    assert max(differences) < 1e-5 if dropout == 0 else min(differences) > 1e-5


def test_the_seed_determines_the_initial_weights() -> None:
    first, second = (
        train("gru4rec", SMALL, Training(epochs=1, learning_rate=1e-9), world(), Run(seed)) for seed in (1, 2)
    )
    for name, array in first.arrays().items():
        assert not np.allclose(array, second.arrays()[name], atol=1e-3), name


@pytest.mark.parametrize(("key", "n_validations"), [("als", 3), ("ials", 1)])
def test_a_solver_is_validated_as_often_as_it_says(key: str, n_validations: int) -> None:
    """``als`` after every iteration, ``ials`` after the last one."""
    count = 0

    def validate(model: Recommender) -> Mapping[str, float]:
        nonlocal count
        count += 1
        return {"rmse": 1.0}

    log = world()
    rated = log.with_histories(
        Events(log.histories.offsets, log.histories.items, values=np.arange(log.histories.size, dtype=np.float32) % 5)
    )
    train(key, {"iterations": 3, "embedding_dim": 2}, Training(), rated, Run(0), validate)
    assert count == n_validations


def test_seeds_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    first = torch.rand(2)
    if not torch.cuda.is_available():
        monkeypatch.setattr("traceback.format_stack", lambda *_: pytest.fail("a call stack was formatted"))
    seed_devices(3)
    assert torch.equal(torch.rand(2), first)
