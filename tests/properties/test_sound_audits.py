"""The audit finds nothing in sound splits of simulated logs, whatever the strategy."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import segue
from segue.core.types import Dataset, Events, Split
from segue.data import SplitSettings, split
from segue.experiment.audit.audit import audit_split

ORDERED = ("leave_one_out", "leave_n_out", "global_temporal", "per_user_ratio", "held_out_users", "cold_users")
STRATEGIES = (*ORDERED, "sessions", "random", "per_user_random", "k_fold", "user_k_fold", "cold_items")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGUE_HOME", str(tmp_path_factory.mktemp("home")))


@cache
def simulated(seed: int, repeats: bool) -> Dataset:
    """A log whose events of a user have different times."""
    data = segue.load(f"simulated?users=30&items=40&seed={seed}&repeats={0.3 if repeats else 0}&mean_length=15")
    events = data.histories
    assert events.times is not None
    changes: dict[str, Any] = {"times": events.times + np.arange(events.size)}
    columns = {name: getattr(events, name) for name in ("actions", "values")}
    return data.with_histories(Events(events.offsets, events.items, **columns, **changes))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 4),
    repeats=st.booleans(),
    strategy=st.sampled_from(STRATEGIES),
    drop_cold=st.booleans(),
    query_time=st.booleans(),
)
def test_nothing_is_found_in_sound_splits(
    seed: int, repeats: bool, strategy: Any, drop_cold: bool, query_time: bool
) -> None:
    data = simulated(seed, repeats)
    chosen = SplitSettings(strategy=strategy, drop_cold_targets=drop_cold, use_query_time=query_time)
    parts = split(data, chosen)
    report = audit_split(parts, data, exclude_seen=not repeats)
    if drop_cold and strategy in ("held_out_users", "user_k_fold", "cold_users", "cold_items", "sessions"):
        assert {one.check for one in report.findings} <= {"empty_parts"}, "all targets are cold"
        assert bool(report.findings) == (not parts.test.targets.size or not parts.valid.targets.size)
    else:
        assert report.is_clean, repr(report)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 4), strategy=st.sampled_from(ORDERED[:4]), row=st.integers(0, 1_000_000))
def test_one_planted_target_in_training_is_found(seed: int, strategy: Any, row: int) -> None:
    """One target of a known user, and only it, is added to the training events."""
    data = simulated(seed, False)
    parts = split(data, SplitSettings(strategy=strategy))
    targets, queries = parts.test.targets, parts.test.queries
    of_known = np.flatnonzero(queries.known[targets.rows])
    if not len(of_known):
        return
    chosen = int(of_known[row % len(of_known)])
    user, item = int(queries.users[targets.rows[chosen]]), int(targets.items[chosen])
    events = parts.train.histories
    at = int(events.offsets[user + 1])
    offsets = events.offsets + (np.arange(len(events.offsets)) > user)
    columns: dict[str, Any] = {
        name: np.insert(getattr(events, name), at, getattr(targets, name)[chosen])
        for name in ("items", "actions", "values", "times")
        if getattr(events, name) is not None
    }
    leaky = segue.audit(split_with(parts, Events(offsets, **columns)))
    finding = next(one for one in leaky.findings if one.check == "targets_in_training")
    assert finding.count == 1
    assert finding.example == {"user": data.users.ids[user], "item": data.items.ids[item]}


def split_with(parts: Split, histories: Events) -> Split:
    return replace(parts, train=parts.train.with_histories(histories))
