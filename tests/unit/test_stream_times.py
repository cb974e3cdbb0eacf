"""Times given to a stream are seconds, or rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import segue
from segue.core.types import Dataset, Events, Vocab


@pytest.fixture(scope="module")
def stream() -> Any:
    items = np.tile(np.arange(5, dtype=np.int32), 6)
    times = 1_600_000_000 + np.arange(30) * 3_600
    users, names = [f"u{n}" for n in range(6)], [f"i{n}" for n in range(5)]
    data = Dataset("tiny", Vocab(users), Vocab(names), Events(np.arange(7) * 5, items, times=times))
    return segue.stream(segue.train("gru4rec", data, inputs=["gap", "query_time"], epochs=1))


@pytest.mark.parametrize("time", [1_600_000_000_000, 1_600_000_000_000_000, -1, float("nan"), True, "2020-09-13"])
def test_times_that_are_not_unix_seconds_are_rejected(stream: Any, time: Any) -> None:
    state = stream.state(["i1"], times=[1_600_000_000])
    calls: tuple[Callable[[], Any], ...] = (
        lambda: stream.step(state, "i2", time=time),
        lambda: stream.state(["i1"], times=[time]),
        lambda: stream.recommend(state, time=time),
    )
    for call in calls:
        with pytest.raises(
            ValueError, match=r"times?=: got .*, expected (a list, each )?(an integer|seconds since 1970)"
        ) as caught:
            call()
        assert ("milliseconds" in str(caught.value)) == (time in (1_600_000_000_000, 1_600_000_000_000_000))


def test_times_of_any_number_type_are_accepted(stream: Any) -> None:
    state = stream.state(["i1"], times=[1_600_000_000])
    steps = [stream.step(state, "i2", time=time) for time in (1_600_000_060, np.int64(1_600_000_060))]
    assert len({step.to_bytes() for step in steps}) == 1
