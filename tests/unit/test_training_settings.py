"""Losses, samplers and optimizers combine with each other; unused settings are rejected."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.core.config import parse
from segue.core.registry import exported_functions
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.nn.losses import losses, negative_samplers
from segue.nn.losses.negatives import Negatives
from segue.training.configured_loss import build_loss
from segue.training.settings import CHOICE_DEPENDENT_SETTINGS, Training
from segue.training.settings_checks import setting_users
from segue.training.train import train

ITEMS = 12
QUICK = {"epochs": 12, "batch_size": 8, "learning_rate": 0.03}


def world() -> Dataset:
    """Histories of consecutive items; the first item depends on the user."""
    rows = [[(user + step) % ITEMS for step in range(3 + user % 7)] for user in range(40)]
    ids = Vocab([str(i) for i in range(ITEMS)])
    return Dataset("walk", Vocab([f"u{u}" for u in range(40)]), ids, Events.of(rows))


def predicted_next_items(training: Training) -> list[int]:
    """Train a model and return its top item for three histories of consecutive items."""
    model = train("gru4rec", {"embedding_dim": 8, "max_length": 6, "dropout": 0.0}, training, world(), Run(0))
    scores_NI = model.score(Queries.anonymous(Events.of([[1, 2, 3], [7, 8], [10, 11, 0]])))
    return [int(item) for item in scores_NI.argmax(1)]


@pytest.mark.parametrize("loss", exported_functions(losses))
def test_every_loss_trains(loss: str) -> None:
    assert predicted_next_items(Training(loss=loss, temperature=0.7, **QUICK)) == [4, 9, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", exported_functions(negative_samplers))
def test_every_sampler_trains(sampler: str) -> None:
    training = Training(loss="sampled_softmax", sampler=sampler, num_negatives=6, **QUICK)  # type: ignore[arg-type]
    assert predicted_next_items(training) == [4, 9, 1]


def test_temperature_divides_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, vectors, bias = (torch.randn(*shape, generator=generator) for shape in ((5, 3), (ITEMS, 3), (ITEMS,)))
    target = torch.arange(5)
    actual = build_loss(Training(temperature=0.25), world(), "cpu")(hidden, vectors, bias, target)
    torch.testing.assert_close(actual, F.cross_entropy((hidden @ vectors.T + bias) / 0.25, target))


def test_unused_settings_are_rejected() -> None:
    for values, message in (
        ({"num_negatives": 5}, "num_negatives: got 5, but the loss 'cross_entropy' does not use it; used by bce, bpr"),
        ({"loss": "gbce", "label_smoothing": 0.1}, "does not use it; used by cross_entropy, cross_entropy_pairwise"),
        ({"loss": "bce", "calibration": 1.0}, "calibration: got 1.0, but the loss 'bce' does not use it; used by gbce"),
        ({"sampler_alpha": 1.0}, "the loss 'cross_entropy' draws no negatives"),
        ({"loss": "bce", "sampler_alpha": 1.0}, "but the sampler 'uniform' does not use it; used by popularity"),
        ({"momentum": 0.9}, "but the optimizer 'adam' does not use it; used by sgd, rmsprop"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "the optimizer 'Rprop' does not use it; used by adam, adamw"),
        ({"optimizer": "sgd", "betas": (0.5, 0.5)}, "'sgd' does not use it; used by adam, adamw"),
    ):
        with pytest.raises(ValueError, match="but the") as error:
            parse(Training, values, "training")
        assert message in str(error.value)
        assert str(error.value).startswith("training.")
    two_unused = {"num_negatives": 5, "momentum": 0.9}
    with pytest.raises(ValueError, match=r"training\.num_negatives: .*\ntraining\.momentum: "):
        parse(Training, two_unused, "training")
    Training(loss="gbce", num_negatives=5, calibration=1.0, sampler="mixed", in_batch_fraction=0.1, optimizer="NAdam")


def test_unknown_losses_samplers_and_optimizers_are_rejected_with_suggestions() -> None:
    for values, message in (
        ({"loss": "cros_entropy"}, "training.loss: got 'cros_entropy': unknown, did you mean 'cross_entropy'?"),
        ({"loss": "bce", "sampler": "popular"}, "training.sampler: got 'popular': unknown, did you mean 'popularity'?"),
        ({"optimizer": "nadm"}, "training.optimizer: got 'nadm': unknown, did you mean 'nadam'?"),
        ({"optimizer": "LBFGS"}, "training.optimizer: got 'LBFGS': not supported: it evaluates the loss"),
        ({"optimizer": "SparseAdam"}, "not supported: it needs sparse gradients"),
        ({"optimizer": "optimizer"}, "unknown"),
    ):
        with pytest.raises(ValueError, match="got") as error:
            parse(Training, values, "training")
        assert message in str(error.value)


def test_component_settings_are_training_settings() -> None:
    assert set(setting_users()) == set(CHOICE_DEPENDENT_SETTINGS)
    assert setting_users().keys() <= Training.model_fields.keys()
    assert all(len(by) == 1 for by in setting_users().values()), "a setting belongs to losses, samplers or optimizers"


def softmax_loss(
    hidden_MD: torch.Tensor,
    vectors_ID: torch.Tensor,
    bias_I: torch.Tensor | None,
    targets_M: torch.Tensor,
    seen: object,
    *,
    label_smoothing: float,
) -> torch.Tensor:
    scores_MI = hidden_MD @ vectors_ID.T
    return F.cross_entropy(scores_MI, targets_M, label_smoothing=label_smoothing)


def hinge_loss(
    hidden_MD: torch.Tensor,
    vectors_ID: torch.Tensor,
    bias_I: torch.Tensor | None,
    targets_M: torch.Tensor,
    negatives: Negatives,
    seen: object,
    *,
    margin: float = 1.0,
) -> torch.Tensor:
    positive_M = (hidden_MD * vectors_ID[targets_M]).sum(1)
    negative_MK = hidden_MD @ vectors_ID[negatives.items_K].T
    return F.relu(margin - positive_M[:, None] + negative_MK).mean()


def test_a_custom_loss_function_trains() -> None:
    assert predicted_next_items(Training(loss=softmax_loss, label_smoothing=0.1, **QUICK)) == [4, 9, 1]  # type: ignore[arg-type]
    custom = Training(loss=hinge_loss, num_negatives=6, sampler="popularity", **QUICK)  # type: ignore[arg-type]
    assert predicted_next_items(custom) == [4, 9, 1]
    copied = predicted_next_items(Training(**custom.model_dump()))
    assert copied == [4, 9, 1], "copied settings keep the function"


def test_a_custom_loss_is_stored_by_name_and_must_be_passed_again() -> None:
    custom = Training(loss=hinge_loss)  # type: ignore[arg-type]
    assert custom.loss == f"{__name__}:hinge_loss"
    stored = parse(Training, custom.model_dump(mode="json"), "training")
    assert stored == custom
    stored = Training.model_validate_json(custom.model_dump_json())
    with pytest.raises(ValueError, match=r"'.*:hinge_loss' is a custom function and only its name is stored"):
        build_loss(stored, world(), "cpu")


def test_a_custom_loss_with_another_signature_or_unused_settings_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"takes \(scores, targets\), expected five positional parameters"):
        Training(loss=lambda scores, targets: scores)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_negatives: got 6, but the loss '.*:softmax_loss' does not use it"):
        Training(loss=softmax_loss, num_negatives=6)  # type: ignore[arg-type]
