"""What may be chosen in training goes with everything else that may; what is set for nothing is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.core.config import parse
from segue.core.registry import functions
from segue.core.run import Run
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.nn.losses import losses, negative_samplers
from segue.training.configured_loss import loss_of
from segue.training.settings_checks import users
from segue.training.train import DEPENDENT, Training, train

ITEMS = 12
QUICK = {"epochs": 12, "batch_size": 8, "learning_rate": 0.03}


def world() -> Dataset:
    """Each user walks up the catalogue from a place of their own."""
    rows = [[(user + step) % ITEMS for step in range(3 + user % 7)] for user in range(40)]
    ids = Vocab([str(i) for i in range(ITEMS)])
    return Dataset("walk", Vocab([f"u{u}" for u in range(40)]), ids, Events.of(rows))


def next_of(training: Training) -> list[int]:
    """What a network that was trained so makes of three walks; each goes on to the item after the last."""
    model = train("gru4rec", {"width": 8, "max_length": 6, "dropout": 0.0}, training, world(), Run(0))
    scores_NI = model.score(Queries.anonymous(Events.of([[1, 2, 3], [7, 8], [10, 11, 0]])))
    return [int(item) for item in scores_NI.argmax(1)]


@pytest.mark.parametrize("loss", functions(losses))
def test_every_loss_trains(loss: str) -> None:
    assert next_of(Training(loss=loss, temperature=0.7, **QUICK)) == [4, 9, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", functions(negative_samplers))
def test_every_sampler_trains(sampler: str) -> None:
    training = Training(loss="sampled_softmax", sampler=sampler, negatives=6, **QUICK)  # type: ignore[arg-type]
    assert next_of(training) == [4, 9, 1]


def test_temperature_divides_the_scores() -> None:
    make = torch.Generator().manual_seed(0)
    hidden, vectors, bias = (torch.randn(*shape, generator=make) for shape in ((5, 3), (ITEMS, 3), (ITEMS,)))
    target = torch.arange(5)
    found = loss_of(Training(temperature=0.25), world(), "cpu")(hidden, vectors, bias, target)
    torch.testing.assert_close(found, F.cross_entropy((hidden @ vectors.T + bias) / 0.25, target))


def test_a_setting_that_nothing_chosen_looks_at_is_refused() -> None:
    for values, told in (
        ({"negatives": 5}, "negatives: got 5, but the loss 'cross_entropy' does not use it; used by bce, bpr"),
        ({"loss": "gbce", "label_smoothing": 0.1}, "does not use it; used by cross_entropy, cross_entropy_pairwise"),
        ({"loss": "bce", "calibration": 1.0}, "calibration: got 1.0, but the loss 'bce' does not use it; used by gbce"),
        ({"sampler_alpha": 1.0}, "the loss 'cross_entropy' draws no negatives"),
        ({"loss": "bce", "sampler_alpha": 1.0}, "but the sampler 'uniform' does not use it; used by popularity"),
        ({"momentum": 0.9}, "but the optimizer 'adam' does not use it; used by sgd, rmsprop"),
        ({"optimizer": "Rprop", "weight_decay": 0.1}, "the optimizer 'Rprop' does not use it; used by adam, adamw"),
        ({"optimizer": "sgd", "betas": (0.5, 0.5)}, "'sgd' does not use it; used by adam, adamw"),
    ):
        with pytest.raises(ValueError, match="but the") as caught:
            parse(Training, values, "training")
        assert told in str(caught.value)
        assert str(caught.value).startswith("training.")
    both = {"negatives": 5, "momentum": 0.9}
    with pytest.raises(ValueError, match=r"training\.negatives: .*\ntraining\.momentum: "):
        parse(Training, both, "training")
    Training(loss="gbce", negatives=5, calibration=1.0, sampler="mixed", sampler_share=0.1, optimizer="NAdam")


def test_an_unknown_loss_sampler_or_optimiser_is_told_with_the_nearest() -> None:
    for values, told in (
        ({"loss": "cros_entropy"}, "training.loss: got 'cros_entropy': unknown, did you mean 'cross_entropy'?"),
        ({"loss": "bce", "sampler": "popular"}, "training.sampler: got 'popular': unknown, did you mean 'popularity'?"),
        ({"optimizer": "nadm"}, "training.optimizer: got 'nadm': unknown, did you mean 'nadam'?"),
        ({"optimizer": "LBFGS"}, "training.optimizer: got 'LBFGS': cannot be used here: it asks for the loss"),
        ({"optimizer": "SparseAdam"}, "cannot be used here: it needs sparse gradients"),
        ({"optimizer": "optimizer"}, "unknown"),
    ):
        with pytest.raises(ValueError, match="got") as caught:
            parse(Training, values, "training")
        assert told in str(caught.value)


def test_settings_of_losses_samplers_and_optimisers_are_settings_of_the_training() -> None:
    assert set(users()) == set(DEPENDENT)
    assert users().keys() <= Training.model_fields.keys()
    assert all(len(by) == 1 for by in users().values()), "a setting belongs to losses, samplers or optimisers"
