"""Concurrent requests are batched in order, and every request ends."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from segue.serving.batcher import Batcher
from segue.serving.scheduling.fair_queue import Overloaded


def test_results_return_to_their_callers() -> None:
    sizes: list[int] = []
    batcher: Batcher[int, int] = Batcher(lambda jobs: [2 * one for one in jobs], 8, 100, "test", sizes.append)

    async def all_at_once() -> list[list[int]]:
        return await asyncio.gather(*(batcher.submit([n, n + 1]) for n in range(50)))

    assert asyncio.run(all_at_once()) == [[2 * n, 2 * n + 2] for n in range(50)]
    assert sum(sizes) == 100
    assert max(sizes) <= 8
    batcher.close()


def test_requests_during_a_batch_form_the_next_batch() -> None:
    started, proceed = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(jobs: list[int]) -> list[int]:
        batches.append(jobs)
        started.set()
        proceed.wait(10)
        return jobs

    batcher: Batcher[int, int] = Batcher(work, 8, 100, "test")

    async def run() -> None:
        first = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(started.wait, 10)
        others = [asyncio.create_task(batcher.submit([n])) for n in range(1, 6)]
        await asyncio.sleep(0)
        proceed.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert batches == [[0], [1, 2, 3, 4, 5]]
    batcher.close()


def test_large_request_is_not_split() -> None:
    sizes: list[int] = []
    batcher: Batcher[int, int] = Batcher(lambda jobs: jobs, 4, 10, "test", sizes.append)
    assert asyncio.run(batcher.submit(list(range(9)))) == list(range(9))
    assert sizes == [9]
    batcher.close()


def test_overload_rejects_new_requests_only() -> None:
    started, proceed = threading.Event(), threading.Event()

    def work(jobs: list[int]) -> list[int]:
        started.set()
        proceed.wait(10)
        return jobs

    batcher: Batcher[int, int] = Batcher(work, 1, 2, "test")

    async def run() -> Sequence[object]:
        first = asyncio.create_task(batcher.submit([0]))
        await asyncio.to_thread(started.wait, 10)
        queued = [asyncio.create_task(batcher.submit([n])) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.submit([3])
        proceed.set()
        return await asyncio.gather(first, *queued)

    assert asyncio.run(run()) == [[0], [1], [2]]
    batcher.close()


def test_error_is_raised_and_work_continues() -> None:
    def work(jobs: list[int]) -> list[int]:
        if 13 in jobs:
            raise KeyError("13")
        return jobs

    batcher: Batcher[int, int] = Batcher(work, 4, 10, "test")
    with pytest.raises(KeyError):
        asyncio.run(batcher.submit([13]))
    assert asyncio.run(batcher.submit([7])) == [7]
    batcher.close()


def test_cancelled_request_does_not_affect_others() -> None:
    started, proceed = threading.Event(), threading.Event()

    def work(jobs: list[int]) -> list[int]:
        started.set()
        proceed.wait(10)
        return jobs

    batcher: Batcher[int, int] = Batcher(work, 8, 10, "test")

    async def run() -> list[int]:
        cancelled = asyncio.create_task(batcher.submit([1]))
        await asyncio.to_thread(started.wait, 10)
        cancelled.cancel()
        remaining = asyncio.create_task(batcher.submit([2]))
        await asyncio.sleep(0)
        proceed.set()
        return await remaining

    assert asyncio.run(run()) == [2]
    batcher.close()


def test_close_drains_the_queue_and_rejects_new_requests() -> None:
    batcher: Batcher[int, int] = Batcher(lambda jobs: jobs, 1, 10, "test")

    async def run() -> list[list[int]]:
        jobs = [asyncio.create_task(batcher.submit([n])) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        with pytest.raises(Overloaded):
            await batcher.submit([9])
        return await asyncio.gather(*jobs)

    assert asyncio.run(run()) == [[n] for n in range(5)]


def test_failing_callback_does_not_stop_the_batcher() -> None:
    def fail(size: int) -> None:
        raise OSError("no space left on device")

    async def both() -> None:
        queue: Batcher[int, int] = Batcher(lambda jobs: jobs, 4, 4, "test", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="space"):
                await asyncio.wait_for(queue.submit([1]), 30)
        queue.close()

    asyncio.run(both())


def test_clients_get_fair_shares() -> None:
    started, proceed = threading.Event(), threading.Event()
    order: list[str] = []

    def work(jobs: list[str]) -> list[str]:
        order.extend(jobs)
        started.set()
        proceed.wait(10)
        return jobs

    batcher: Batcher[str, str] = Batcher(work, 4, 10, "test")

    async def run() -> list[object]:
        first = asyncio.create_task(batcher.submit(["a"], "a"))
        await asyncio.to_thread(started.wait, 10)
        many = [asyncio.create_task(batcher.submit([f"a{n}"] * 4, "a")) for n in range(10)]
        await asyncio.sleep(0)
        other = asyncio.create_task(batcher.submit(["b"], "b"))
        await asyncio.sleep(0)
        proceed.set()
        return await asyncio.gather(first, *many, other, return_exceptions=True)

    results = asyncio.run(run())
    assert order.index("b") <= 5, "before the second request of the client with many"
    assert isinstance(results[10], Overloaded), "the newest request of the client that queues the most made room"
    assert results[-1] == ["b"]
    batcher.close()


def test_shares_are_numbers_of_jobs() -> None:
    """A client with requests of one job is served four times before the next request of four jobs of another."""
    started, proceed = threading.Event(), threading.Event()
    order: list[str] = []

    def work(jobs: list[str]) -> list[str]:
        order.extend(jobs)
        started.set()
        proceed.wait(10)
        return jobs

    batcher: Batcher[str, str] = Batcher(work, 1, 100, "test")

    async def run() -> None:
        calls = [asyncio.create_task(batcher.submit(["a"] * 4, "large"))]
        await asyncio.to_thread(started.wait, 10)
        calls += [asyncio.create_task(batcher.submit(["a"] * 4, "large")) for _ in range(2)]
        calls += [asyncio.create_task(batcher.submit(["b"], "small")) for _ in range(9)]
        await asyncio.sleep(0)
        proceed.set()
        await asyncio.gather(*calls)

    asyncio.run(run())
    batcher.close()
    assert "".join(order[4:]).replace("aaaa", "A") in ("AbbbbAbbbbb", "AbbbbbAbbbb")
