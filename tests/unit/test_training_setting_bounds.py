"""Defaults and bounds of the training settings are the documented ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from segue.training.settings import CHOICE_DEPENDENT_SETTINGS, Training

TINY = 1e-6

DEFAULTS: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "gradient_accumulation": 1,
    "loss": "cross_entropy",
    "temperature": 1.0,
    "label_smoothing": 0.0,
    "focal_gamma": 2.0,
    "pairwise_weight": 0.5,
    "calibration": 0.75,
    "score_penalty": 1.0,
    "num_negatives": 256,
    "sampler": "uniform",
    "sampler_alpha": 0.75,
    "in_batch_fraction": 0.5,
    "hard_pool_factor": 4.0,
    "optimizer": "adam",
    "betas": (0.9, 0.98),
    "momentum": 0.0,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "lr_step_epochs": 10,
    "lr_step_factor": 0.5,
    "clip_norm": 1.0,
    "ema": 0.0,
    "precision": "float32",
    "patience": 10,
    "metric": None,
    "validate_every": 1,
    "checkpoint_seconds": 300.0,
}

NEEDS: dict[str, dict[str, Any]] = {
    "label_smoothing": {},
    "focal_gamma": {"loss": "focal"},
    "pairwise_weight": {"loss": "cross_entropy_pairwise"},
    "calibration": {"loss": "gbce"},
    "score_penalty": {"loss": "bpr_max"},
    "num_negatives": {"loss": "bce"},
    "sampler_alpha": {"loss": "bce", "sampler": "popularity"},
    "in_batch_fraction": {"loss": "bce", "sampler": "mixed"},
    "hard_pool_factor": {"loss": "bce", "sampler": "hard"},
    "momentum": {"optimizer": "sgd"},
    "lr_step_epochs": {"schedule": "step"},
    "lr_step_factor": {"schedule": "step"},
}
"""Settings without which a setting is not used."""

POSITIVE_COUNTS = (
    "epochs",
    "batch_size",
    "gradient_accumulation",
    "num_negatives",
    "lr_step_epochs",
    "patience",
    "validate_every",
)

BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    **{name: ([1, 2], [0, -1]) for name in POSITIVE_COUNTS},
    **{name: ([TINY, 0.5, 1e6], [0.0, -0.5]) for name in ("temperature", "focal_gamma", "learning_rate")},
    "checkpoint_seconds": ([TINY, 0.5, 1e6], [0.0, -0.5]),
    **{
        name: ([0.0, TINY, 1e6], [-TINY, -0.5]) for name in ("score_penalty", "sampler_alpha", "weight_decay", "warmup")
    },
    "clip_norm": ([0.0, TINY, 1e6], [-TINY, -0.5]),
    **{name: ([0.0, TINY, 1.0 - TINY], [-TINY, -0.5, 1.0, 1.5]) for name in ("label_smoothing", "momentum", "ema")},
    **{
        name: ([0.0, TINY, 1.0], [-TINY, -0.5, 1.0 + TINY, 1.5])
        for name in ("pairwise_weight", "calibration", "in_batch_fraction")
    },
    "hard_pool_factor": ([1.0, 1.5, 100.0], [1.0 - TINY, 0.0]),
    "lr_step_factor": ([TINY, 1.0 - TINY], [0.0, -0.5, 1.0, 1.5]),
    "betas": ([(0.0, 0.0), (1.0 - TINY, 1.0 - TINY)], [(-TINY, 0.5), (0.5, -TINY), (1.0, 0.5), (0.5, 1.0)]),
}
"""By setting: values that are accepted and values that are rejected."""


def test_defaults() -> None:
    assert Training().model_dump() == DEFAULTS


def test_every_number_has_bounds() -> None:
    assert BOUNDS.keys() == {name for name, value in DEFAULTS.items() if isinstance(value, int | float | tuple)}


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    accepted, rejected = BOUNDS[name]
    for value in accepted:
        assert getattr(Training(**NEEDS.get(name, {}), **{name: value}), name) == value
    for value in [*rejected, math.nan]:
        with pytest.raises(ValueError, match=name):
            Training(**NEEDS.get(name, {}), **{name: value})


def test_unused_settings_are_found_when_every_setting_is_changed() -> None:
    changed: dict[str, Any] = {
        "label_smoothing": 0.1,
        "focal_gamma": 3.0,
        "pairwise_weight": 0.3,
        "calibration": 0.5,
        "score_penalty": 0.5,
        "num_negatives": 8,
        "sampler": "popularity",
        "sampler_alpha": 0.5,
        "in_batch_fraction": 0.3,
        "hard_pool_factor": 3.0,
        "betas": (0.8, 0.9),
        "momentum": 0.5,
        "weight_decay": 0.1,
    }
    assert set(changed) == set(CHOICE_DEPENDENT_SETTINGS)
    with pytest.raises(ValueError, match=r"focal_gamma: got 3\.0, but the loss 'cross_entropy' does not use it"):
        Training(**changed)
