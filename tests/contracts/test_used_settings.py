"""Every training setting is either read by the training of a model, or rejected for that model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segue.core.network import Network
from segue.core.registry import model_class, model_keys
from segue.core.run import Run
from segue.experiment.plan import make_plan
from segue.testing.training import small
from segue.testing.worlds import cycle, with_features, with_knowledge
from segue.training.settings import CHOICE_DEPENDENT_SETTINGS, Training
from segue.training.train import train

CHANGES = {
    "loss": "bce",
    "sampler": "popularity",
    "optimizer": "sgd",
    "schedule": "cosine",
    "betas": [0.5, 0.5],
    "precision": "bfloat16",
    "metric": "mrr@10",
    "label_smoothing": 0.5,
    "ema": 0.5,
    "momentum": 0.5,
    "lr_step_factor": 0.1,
    "calibration": 0.5,
    "clip_norm": 0.5,
}
"""Values other than the defaults; the numbers that are not here are doubled."""

NEEDED = {
    "num_negatives": ["training.loss=bce"],
    "sampler": ["training.loss=bce"],
    "focal_gamma": ["training.loss=focal"],
    "pairwise_weight": ["training.loss=cross_entropy_pairwise"],
    "calibration": ["training.loss=gbce"],
    "score_penalty": ["training.loss=bpr_max"],
    "sampler_alpha": ["training.loss=bce", "training.sampler=popularity"],
    "in_batch_fraction": ["training.loss=bce", "training.sampler=mixed"],
    "hard_pool_factor": ["training.loss=bce", "training.sampler=hard"],
    "momentum": ["training.optimizer=sgd"],
    "lr_step_epochs": ["training.schedule=step"],
    "lr_step_factor": ["training.schedule=step"],
}
"""Choices without which a setting is not used."""


def change(name: str) -> list[str]:
    """Return the override that changes a setting."""
    default = Training.model_fields[name].default
    return [f"training.{name}={CHANGES.get(name, default * 2 if isinstance(default, int | float) else default)}"]


class Recording(Training):
    """Training settings that remember which of them were read."""

    def __getattribute__(self, name: str) -> Any:
        """Record the field, then read it."""
        if name in Training.model_fields:
            READ.add(name)
        return super().__getattribute__(name)


READ: set[str] = set()


def accepts(model: str, overrides: list[str]) -> bool:
    """Return whether the settings are accepted; a rejection names the setting."""
    try:
        make_plan({"model": model, "data": "log"}, overrides, "none")
    except ValueError as error:
        if overrides[-1].partition("=")[0] not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize("model", model_keys())
def test_a_training_setting_is_read_or_rejected(model: str) -> None:
    kind = model_class(model)
    accepted = {name for name in Training.model_fields if accepts(model, [*NEEDED.get(name, []), *change(name)])}
    if not issubclass(kind, Network):
        assert accepted == {"metric"}
        return
    log = with_knowledge(with_features(cycle(users=12).train), [0] * 6 + [1] * 6)
    training = Recording(epochs=1, metric="hit_rate@10", ema=0.5)
    READ.clear()
    train(model, small(kind.Config, {}), training, log, Run(0), lambda _: {"hit_rate@10": 0.5})
    assert accepted - set(CHOICE_DEPENDENT_SETTINGS) - {"lr_step_factor"} <= READ
    assert accepted >= {"epochs", "batch_size", "optimizer", "betas", "learning_rate", "weight_decay", "metric"}
    assert ("loss" in accepted) == (kind.builtin_loss is None)


def test_a_setting_needs_its_choice() -> None:
    for name, choices in NEEDED.items():
        make_plan({"model": "sasrec", "data": "log"}, [*choices, *change(name)], "none")
        with pytest.raises(ValueError, match=rf"training\.{name}: .*but the"):
            make_plan({"model": "sasrec", "data": "log"}, change(name), "none")


@pytest.mark.parametrize("model", ["bpr", "pmf", "svdpp", "neumf"])
def test_a_key_is_ambiguous_only_if_two_groups_use_it(model: str) -> None:
    task = {"model": model, "data": "log"}
    shared = model_class(model).Config.model_fields.keys() & Training.model_fields.keys()
    assert shared
    for name in shared:
        plan = make_plan(task, [change(name)[0].removeprefix("training.")], "none")
        assert getattr(plan.training, name) == Training.model_fields[name].default
        assert getattr(plan.model, name) != model_class(model).Config.model_fields[name].default


def test_a_seed_is_that_of_the_run_unless_the_split_is_random() -> None:
    task = {"model": "ease", "data": "log"}
    assert make_plan(task, ["seed=3"], "none").run.seed == 3
    with pytest.raises(ValueError, match=r"seed: ambiguous, expected split\.seed or run\.seed"):
        make_plan(task, ["strategy=random", "seed=3"], "none")


def test_a_recipe_with_settings_that_nothing_reads_is_rejected(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[training]\nepochs = 7\npatience = 10\n")
    with pytest.raises(ValueError, match=r"mine\.toml: training\.epochs: 'bpr' is not trained") as error:
        make_plan({"model": "bpr", "data": "log"}, [], recipe)
    assert "patience" not in str(error.value), "a stored run lists the default of every setting"
