"""Defaults and bounds of the split settings are the documented ones."""

from __future__ import annotations

from typing import Any

import pytest

from segue.data import SplitSettings

BOUNDS: dict[str, tuple[str, list[Any], list[Any]]] = {
    "test": ("random", [0.0, 1e-6, 0.89], [-1e-6, 1.0, 1.5]),
    "valid": ("random", [0.0, 1e-6, 0.79], [-1e-6, 1.0, 1.5]),
    "seed": ("random", [0, 1], [-1]),
    "n": ("leave_n_out", [1, 2], [0, -1]),
    "folds": ("k_fold", [2, 3], [1, 0]),
    "fold": ("k_fold", [0, 1, 4], [-1, 5]),
    "history": ("held_out_users", [1e-6, 1.0 - 1e-6], [0.0, -0.5, 1.0, 1.5]),
    "cold_items": ("leave_one_out", [0.0, 1e-6, 0.99], [-1e-6, 1.0, 1.5]),
}
"""By setting: a strategy that uses it, values that are accepted and values that are rejected."""


def test_defaults() -> None:
    assert SplitSettings().model_dump() == {
        "strategy": "leave_one_out",
        "test": 0.2,
        "valid": 0.1,
        "seed": 0,
        "n": 1,
        "cutoff": None,
        "valid_cutoff": None,
        "end": None,
        "name": None,
        "folds": 5,
        "fold": 0,
        "history": 0.8,
        "use_query_time": False,
        "use_query_context": False,
        "drop_cold_targets": False,
        "drop_seen_targets": False,
        "cold_items": 0.0,
    }


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    strategy, accepted, rejected = BOUNDS[name]
    for value in accepted:
        assert getattr(SplitSettings(strategy=strategy, **{name: value}), name) == value  # type: ignore[arg-type]
    for value in rejected:
        with pytest.raises(ValueError, match=name):
            SplitSettings(strategy=strategy, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [1.0, 1.5])
def test_a_share_is_less_than_one_whatever_the_strategy(share: float) -> None:
    with pytest.raises(ValueError, match="less than 1"):
        SplitSettings(strategy="k_fold", valid=share)
    with pytest.raises(ValueError, match="less than 1"):
        SplitSettings(strategy="global_temporal", test=share, cutoff="2020-01-01")


def test_test_and_validation_leave_something_to_train_on() -> None:
    with pytest.raises(ValueError, match=r"test: 0\.5 and valid 0\.5 leave nothing to train on"):
        SplitSettings(strategy="random", test=0.5, valid=0.5)
    SplitSettings(strategy="random", test=0.5, valid=0.49)
    SplitSettings(strategy="global_temporal", test=0.9, valid=0.9, cutoff="2020-01-01")  # the cutoff replaces the share
    with pytest.raises(ValueError, match=r"got 3 of 3 folds, expected 0 to 2"):
        SplitSettings(strategy="k_fold", folds=3, fold=3)
