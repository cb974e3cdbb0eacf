"""Rates and slots, in time that is told to pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.serving.limits import Rate, Slots


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_no_limit() -> None:
    rate = Rate(0)
    assert not any(rate.wait("a") for _ in range(1000))
    assert len(rate) == 0


def test_what_was_saved_up_can_be_spent_at_once_and_no_more() -> None:
    clock = Clock()
    rate = Rate(5, clock=clock)
    assert [rate.wait("a") == 0 for _ in range(11)] == [True] * 10 + [False]
    assert rate.wait("b") == 0, "each key has its own"
    wait = rate.wait("a")
    assert wait == pytest.approx(0.2)
    assert rate.wait("a") == wait, "who is refused does not wait longer for it"
    clock.seconds += wait
    assert rate.wait("a") == 0
    assert rate.wait("a") > 0
    clock.seconds += 1000
    assert [rate.wait("a") == 0 for _ in range(11)] == [True] * 10 + [False]


def test_a_rate_below_one_lets_one_pass_at_a_time() -> None:
    clock = Clock()
    rate = Rate(0.1, clock=clock)
    assert rate.wait("a") == 0
    assert rate.wait("a") == pytest.approx(10)
    clock.seconds += 10
    assert rate.wait("a") == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0, 10.0]))
def test_never_more_than_the_bucket_and_what_flowed_in(steps: list[float], each: float) -> None:
    clock = Clock()
    rate = Rate(each, clock=clock)
    begun, passed = clock.seconds, 0
    for step in steps:
        clock.seconds += step
        for _ in range(3):
            wait = rate.wait("a")
            passed += wait == 0
            assert 0 <= wait <= 1 / each + 1e-6
        assert passed <= max(1, 2 * each) + each * (clock.seconds - begun) + 1e-6
    if wait:
        clock.seconds += wait
        assert rate.wait("a") == 0


def test_memory_is_bounded() -> None:
    rate = Rate(1, most=100, clock=Clock())
    for i in range(10_000):
        rate.wait(f"key {i}")
        rate.wait("busy")
    assert len(rate) == 100
    assert rate.wait("busy") > 0, "who asks often is not forgotten"


def test_slots_are_given_back() -> None:
    slots = Slots(2)
    assert [slots.take(), slots.take(), slots.take()] == [True, True, False]
    slots.give()
    assert slots.taken == 1
    assert slots.take()
