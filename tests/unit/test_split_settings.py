"""Settings that a split strategy does not read are rejected."""

from __future__ import annotations

import inspect
import re

import pytest

import segue
from segue.data import split_strategies
from segue.data.split_settings import COMMON_SETTINGS, STRATEGY_SETTINGS, SplitSettings

CHANGED = {
    "test": 0.3, "valid": 0.05, "seed": 4, "n": 2, "cutoff": "2020-01-02", "valid_cutoff": "2020-01-01",
    "end": "2020-02-01", "name": "u1", "folds": 3, "fold": 1, "history": 0.5,
}  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_a_setting_that_the_strategy_does_not_read_is_rejected(strategy: str) -> None:
    for name, value in CHANGED.items():
        if name in STRATEGY_SETTINGS[strategy]:
            assert getattr(SplitSettings(strategy=strategy, **{name: value}), name) == value  # type: ignore[arg-type]
            continue
        with pytest.raises(ValueError, match=f"{name}: only used by strategy .*, got {strategy}"):
            SplitSettings(strategy=strategy, **{name: value})  # type: ignore[arg-type]


def test_leave_one_out_rejects_a_test_share() -> None:
    with pytest.raises(ValueError, match=r"test: only used by .*, got leave_one_out; leave test=0.3 out"):
        segue.split("simulated?users=20&items=30", "leave_one_out", test=0.3)


@pytest.mark.parametrize("strategy", STRATEGY_SETTINGS)
def test_the_list_of_settings_is_what_the_strategy_reads(strategy: str) -> None:
    pending, seen, source = [strategy], set(), ""
    while pending:
        function = getattr(split_strategies, pending.pop())
        seen.add(function.__name__)
        source += inspect.getsource(function)
        called = {name for name in function.__code__.co_names if name not in seen}
        pending += [name for name in called if inspect.isfunction(getattr(split_strategies, name, None))]
    read = {name for name in SplitSettings.model_fields if re.search(rf"settings\.{name}\b", source)}
    assert read == set(STRATEGY_SETTINGS[strategy])
    assert set(SplitSettings.model_fields) == {*COMMON_SETTINGS, *CHANGED}
