"""Plain calls go first, expensive ones are never starved, and cancelled ones stop. Time is simulated."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from segue.serving.scheduling.engine_scheduler import EXPENSIVE_SHARE, SLICE_SECONDS, EngineScheduler, Outputs
from segue.serving.scheduling.fair_queue import Overloaded


@dataclass
class Clock:
    """A clock that jobs advance."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Work:
    """A job of some steps of equal duration."""

    name: str
    steps: int = 1
    seconds: float = SLICE_SECONDS / 2


@dataclass
class Recorder:
    """Measurements of a scheduler."""

    batches: list[int] = field(default_factory=list)
    queue_times: list[tuple[str, float]] = field(default_factory=list)
    cancellations: list[str] = field(default_factory=list)

    def record_batch(self, size: int) -> None:
        self.batches.append(size)

    def record_queue_time(self, lane: str, seconds: float) -> None:
        self.queue_times.append((lane, seconds))

    def record_cancellation(self, lane: str) -> None:
        self.cancellations.append(lane)


class World:
    """A scheduler without a thread: tests run it step by step."""

    def __init__(self, max_batch: int = 8, max_queued: int = 100) -> None:
        self.clock, self.metrics = Clock(), Recorder()
        self.steps: list[str] = []
        """The job of each step, in order."""
        self.closed: list[str] = []
        """The first jobs of calls whose work was abandoned."""
        self.scheduler: EngineScheduler[Work] = EngineScheduler(
            self.run, max_batch, max_queued, "test", self.metrics, self.clock
        )

    def run(self, jobs: Sequence[Work], max_rows: int) -> Outputs:
        try:
            for index, job in enumerate(jobs):
                for step in range(job.steps):
                    self.clock.now += job.seconds
                    self.steps.append(job.name)
                    if job.name == "fails":
                        raise ValueError(job.name)
                    yield [(index, job.name.upper())] if step == job.steps - 1 else None
        except GeneratorExit:
            self.closed.append(jobs[0].name)
            raise

    async def submit(self, *jobs: Work, client: str = "", is_expensive: bool = False) -> asyncio.Task[list[Any]]:
        task = asyncio.create_task(self.scheduler.submit(jobs, client, is_expensive=is_expensive))
        await asyncio.sleep(0)
        return task

    async def run_some(self, count: int) -> None:
        for _ in range(count):
            self.scheduler.run_next()
            await asyncio.sleep(0)

    async def run_all(self) -> None:
        while self.scheduler.run_next():
            await asyncio.sleep(0)


def test_results_are_in_the_order_of_the_jobs() -> None:
    async def scenario() -> None:
        world = World()
        batch = await world.submit(Work("a", 3), Work("b"), Work("c", 2), is_expensive=True)
        plain = [await world.submit(Work(name)) for name in "xyz"]
        await world.run_all()
        assert await batch == ["A", "B", "C"]
        assert [await one for one in plain] == [["X"], ["Y"], ["Z"]]
        assert world.metrics.batches == [3]

    asyncio.run(scenario())


def test_plain_calls_go_between_two_steps_of_an_expensive_one() -> None:
    async def scenario() -> None:
        world = World()
        await world.submit(Work("slow", 10, seconds=SLICE_SECONDS), is_expensive=True)
        world.scheduler.run_next()
        assert world.steps == ["slow"]
        await world.submit(Work("quick"))
        world.scheduler.run_next()
        assert world.steps == ["slow", "quick"]

    asyncio.run(scenario())


def test_a_slice_ends_when_a_plain_call_arrives() -> None:
    async def scenario() -> None:
        world = World()
        slow = await world.submit(Work("slow", 100, seconds=SLICE_SECONDS / 100), is_expensive=True)
        world.scheduler.run_next()
        n_steps = len(world.steps)
        assert 90 <= n_steps <= 101
        plain = await world.submit(Work("quick"))
        await world.run_all()
        assert world.steps[n_steps] == "quick"
        assert (await slow, await plain) == (["SLOW"], ["QUICK"])

    asyncio.run(scenario())


def test_a_slice_ends_when_a_plain_call_arrives_during_a_step() -> None:
    async def scenario() -> None:
        world, loop = World(), asyncio.get_running_loop()
        plain: list[asyncio.Task[list[Any]]] = []

        def run(jobs: Sequence[Work], max_rows: int) -> Outputs:
            for output in world.run(jobs, max_rows):
                if world.steps == ["slow"] * 5:
                    plain.append(asyncio.run_coroutine_threadsafe(world.submit(Work("quick")), loop).result(30))
                yield output

        world.scheduler._run = run
        slow = await world.submit(Work("slow", 100, seconds=SLICE_SECONDS / 100), is_expensive=True)
        await asyncio.to_thread(world.scheduler.run_next)
        assert world.steps == ["slow"] * 5
        await world.run_all()
        assert world.steps[5] == "quick"
        assert (await slow, await plain[0]) == (["SLOW"], ["QUICK"])

    asyncio.run(scenario())


def test_expensive_calls_get_their_share_while_plain_ones_never_end() -> None:
    async def scenario() -> None:
        world = World(max_batch=1)
        await world.submit(Work("slow", 10_000), is_expensive=True)
        for _ in range(2_000):
            await world.submit(Work("quick"))
            world.scheduler.run_next()
        share = world.steps.count("slow") / len(world.steps)
        assert share == pytest.approx(EXPENSIVE_SHARE, rel=0.1)

    asyncio.run(scenario())


def test_no_share_is_saved_up_while_nothing_expensive_waits() -> None:
    async def scenario() -> None:
        world = World(max_batch=1)
        for _ in range(100):
            await world.submit(Work("quick"))
        for _ in range(50):
            world.scheduler.run_next()
        await world.submit(Work("slow", 100), is_expensive=True)
        for _ in range(8):
            world.scheduler.run_next()
        assert world.steps[50:58] == ["quick"] * 8

    asyncio.run(scenario())


def test_expensive_calls_of_clients_share_the_time_equally() -> None:
    async def scenario() -> None:
        world = World()
        for number in range(256):
            await world.submit(Work(f"a{number}", 20), client="a", is_expensive=True)
        await world.run_some(30)
        before = len(world.steps)
        b = await world.submit(Work("b", 20), client="b", is_expensive=True)
        while not b.done():
            await world.run_some(1)
        assert len(world.steps) - before <= 2 * 20 + 4  # as long as two calls, not as long as 256

    asyncio.run(scenario())


def test_plain_calls_of_a_busy_client_do_not_delay_those_of_another() -> None:
    async def scenario() -> None:
        world = World(max_batch=4, max_queued=1_000)
        for number in range(256):
            await world.submit(Work(f"a{number}"), client="a")
        await world.submit(Work("b"), client="b")
        world.scheduler.run_next()
        assert "b" in world.steps[:4]

    asyncio.run(scenario())


def test_results_are_delivered_before_the_rest_of_the_batch() -> None:
    async def scenario() -> None:
        world, resume = World(), threading.Event()

        def run(jobs: Sequence[Work], max_rows: int) -> Outputs:
            yield [(0, "A"), (2, "C")]
            resume.wait(60)
            yield [(1, "B")]

        world.scheduler._run = run
        a, b, c = [await world.submit(Work(name)) for name in "abc"]
        running = asyncio.create_task(asyncio.to_thread(world.scheduler.run_next))
        assert await asyncio.wait_for(a, 30) == ["A"]
        assert await asyncio.wait_for(c, 30) == ["C"]
        assert not b.done()
        resume.set()
        assert await b == ["B"]
        await running

    asyncio.run(scenario())


def test_a_call_cancelled_before_its_start_is_dropped() -> None:
    async def scenario() -> None:
        world = World()
        calls = [await world.submit(Work("plain")), await world.submit(Work("slow", 5), is_expensive=True)]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert len(world.scheduler) == 0
        assert not world.scheduler.run_next()
        assert world.steps == []
        assert world.metrics.cancellations == ["plain", "expensive"]

    asyncio.run(scenario())


def test_a_cancelled_call_stops_between_two_steps() -> None:
    async def scenario() -> None:
        world = World()
        slow = await world.submit(Work("slow", 1_000), is_expensive=True)
        other = await world.submit(Work("other", 3), client="other", is_expensive=True)
        await world.run_some(1)
        n_steps = len(world.steps)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await world.run_all()
        assert world.steps.count("slow") == n_steps
        assert world.closed == ["slow"]
        assert await other == ["OTHER"]
        assert world.metrics.cancellations == ["expensive"]
        assert len(world.scheduler) == 0

    asyncio.run(scenario())


def test_a_full_lane_drops_calls_of_the_client_that_queues_the_most() -> None:
    async def scenario() -> None:
        world = World(max_queued=4)
        busy = [await world.submit(Work(f"a{number}"), client="a") for number in range(4)]
        with pytest.raises(Overloaded):
            await world.scheduler.submit([Work("a4")], "a", is_expensive=False)
        b = await world.submit(Work("b0"), client="b")
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await busy[3]
        expensive = await world.submit(Work("c0"), client="a", is_expensive=True)  # the lanes have separate limits
        await world.run_all()
        assert [await one for one in (*busy[:3], b, expensive)] == [["A0"], ["A1"], ["A2"], ["B0"], ["C0"]]

    asyncio.run(scenario())


def test_a_full_lane_drops_no_call_of_a_client_that_queues_one_more() -> None:
    """The two clients would otherwise drop the calls of each other in turn."""

    async def scenario() -> None:
        world = World(max_queued=3)
        calls = [await world.submit(Work(name), client=name[0]) for name in ("a0", "a1", "b0")]
        refused = await world.submit(Work("b1"), client="b")
        await world.run_all()
        assert [await one for one in calls] == [["A0"], ["A1"], ["B0"]]
        with pytest.raises(Overloaded):
            await refused

    asyncio.run(scenario())


def test_work_that_has_started_is_not_dropped() -> None:
    async def scenario() -> None:
        world = World(max_queued=1)
        running = await world.submit(Work("a", 100), client="a", is_expensive=True)
        await world.run_some(1)
        with pytest.raises(Overloaded):
            await world.scheduler.submit([Work("b")], "b", is_expensive=True)
        await world.run_all()
        assert await running == ["A"]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_expensive", [False, True])
def test_a_failure_is_raised_and_work_continues(is_expensive: bool) -> None:
    async def scenario() -> None:
        world = World(max_batch=1)
        failing = await world.submit(Work("fails"), is_expensive=is_expensive)
        good = await world.submit(Work("good"), is_expensive=is_expensive)
        await world.run_all()
        with pytest.raises(ValueError, match="fails"):
            await failing
        assert await good == ["GOOD"]

    asyncio.run(scenario())


@pytest.mark.parametrize("is_expensive", [False, True])
def test_a_missing_result_is_an_error(is_expensive: bool) -> None:
    async def scenario() -> None:
        world = World()
        world.scheduler._run = lambda jobs, max_rows: (output for output in [None])
        call = await world.submit(Work("lost"), is_expensive=is_expensive)
        await world.run_all()
        with pytest.raises(RuntimeError, match="0 results for 1 jobs"):
            await call

    asyncio.run(scenario())


def test_time_in_the_queue_is_measured_by_lane() -> None:
    async def scenario() -> None:
        world = World()
        await world.submit(Work("slow", seconds=0.5), is_expensive=True)
        await world.submit(Work("quick", seconds=0.25))
        await world.run_all()
        assert world.metrics.queue_times == [("plain", 0.0), ("expensive", 0.25)]

    asyncio.run(scenario())


def test_closing_finishes_queued_calls_and_rejects_new_ones() -> None:
    async def scenario() -> None:
        world = World(max_batch=1)
        calls = [await world.submit(Work("a", 3), is_expensive=True), await world.submit(Work("b"))]
        world.scheduler.start()
        await asyncio.to_thread(world.scheduler.close, 30)
        with pytest.raises(Overloaded):
            await world.scheduler.submit([Work("c")], is_expensive=False)
        assert [await call for call in calls] == [["A"], ["B"]]

    asyncio.run(scenario())
