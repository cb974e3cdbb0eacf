"""Rate limit and concurrency limit, with a simulated clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.serving.limits import RateLimiter, SharedLimiter


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_rate_limit_disabled() -> None:
    rate = RateLimiter(0)
    assert not any(rate.acquire("a") for _ in range(1000))
    assert len(rate) == 0


def test_bursts() -> None:
    clock = Clock()
    rate = RateLimiter(5, clock=clock)
    assert [rate.acquire("a") == 0 for _ in range(11)] == [True] * 10 + [False]
    assert rate.acquire("b") == 0, "each key has its own limit"
    wait = rate.acquire("a")
    assert wait == pytest.approx(0.2)
    assert rate.acquire("a") == wait, "a rejected request does not extend the wait"
    clock.seconds += wait
    assert rate.acquire("a") == 0
    assert rate.acquire("a") > 0
    clock.seconds += 1000
    assert [rate.acquire("a") == 0 for _ in range(11)] == [True] * 10 + [False]


def test_rates_below_one_per_second() -> None:
    clock = Clock()
    rate = RateLimiter(0.1, clock=clock)
    assert rate.acquire("a") == 0
    assert rate.acquire("a") == pytest.approx(10)
    clock.seconds += 10
    assert rate.acquire("a") == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=60), st.sampled_from([0.5, 1.0, 3.0, 10.0]))
def test_rate_limit_is_never_exceeded(steps: list[float], each: float) -> None:
    clock = Clock()
    rate = RateLimiter(each, clock=clock)
    start, n_passed = clock.seconds, 0
    for step in steps:
        clock.seconds += step
        for _ in range(3):
            wait = rate.acquire("a")
            n_passed += wait == 0
            assert 0 <= wait <= 1 / each + 1e-6
        assert n_passed <= max(1, 2 * each) + each * (clock.seconds - start) + 1e-6
    if wait:
        clock.seconds += wait
        assert rate.acquire("a") == 0


def test_memory_is_bounded() -> None:
    rate = RateLimiter(1, max_keys=100, clock=Clock())
    for i in range(10_000):
        rate.acquire(f"key {i}")
        rate.acquire("overloaded")
    assert len(rate) == 100
    assert rate.acquire("overloaded") > 0, "frequently used keys are remembered"


def test_shared_limiter() -> None:
    limiter = SharedLimiter(2)
    assert [limiter.try_acquire(), limiter.try_acquire(), limiter.try_acquire()] == [True, True, False]
    limiter.release()
    assert limiter.in_use == 1
    assert limiter.try_acquire()


def test_one_client_cannot_use_everything() -> None:
    limiter = SharedLimiter(10, per_client=6)
    assert [limiter.try_acquire("a", 4), limiter.try_acquire("a", 3), limiter.try_acquire("a", 2)] == [
        True,
        False,
        True,
    ]
    assert not limiter.is_full
    assert limiter.try_acquire("b", 4)
    assert limiter.is_full
    assert not limiter.try_acquire("c")
    limiter.release("a", 2)
    assert limiter.try_acquire("c", 2)
    for client, amount in (("a", 4), ("b", 4), ("c", 2)):
        limiter.release(client, amount)
    assert (limiter.in_use, limiter._by_client) == (0, {}), "clients without use are forgotten"
