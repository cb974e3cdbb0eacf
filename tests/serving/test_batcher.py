"""What many ask at the same time is answered together, in order, and nobody waits for ever."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from segue.serving.batcher import Batcher, Busy


def test_answers_are_everybodys_own() -> None:
    sizes: list[int] = []
    batcher: Batcher[int, int] = Batcher(lambda asked: [2 * one for one in asked], 8, 100, "test", sizes.append)

    async def all_at_once() -> list[list[int]]:
        return await asyncio.gather(*(batcher.ask([n, n + 1]) for n in range(50)))

    assert asyncio.run(all_at_once()) == [[2 * n, 2 * n + 2] for n in range(50)]
    assert sum(sizes) == 100
    assert max(sizes) <= 8
    batcher.close()


def test_what_comes_while_it_works_is_one_batch() -> None:
    begun, go = threading.Event(), threading.Event()
    batches: list[list[int]] = []

    def work(asked: list[int]) -> list[int]:
        batches.append(asked)
        begun.set()
        go.wait(10)
        return asked

    batcher: Batcher[int, int] = Batcher(work, 8, 100, "test")

    async def scene() -> None:
        first = asyncio.create_task(batcher.ask([0]))
        await asyncio.to_thread(begun.wait, 10)
        others = [asyncio.create_task(batcher.ask([n])) for n in range(1, 6)]
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *others)

    asyncio.run(scene())
    assert batches == [[0], [1, 2, 3, 4, 5]]
    batcher.close()


def test_a_request_larger_than_a_batch_is_not_split() -> None:
    seen: list[int] = []
    batcher: Batcher[int, int] = Batcher(lambda asked: asked, 4, 10, "test", seen.append)
    assert asyncio.run(batcher.ask(list(range(9)))) == list(range(9))
    assert seen == [9]
    batcher.close()


def test_too_many_are_refused_and_the_others_answered() -> None:
    begun, go = threading.Event(), threading.Event()

    def work(asked: list[int]) -> list[int]:
        begun.set()
        go.wait(10)
        return asked

    batcher: Batcher[int, int] = Batcher(work, 1, 2, "test")

    async def scene() -> Sequence[object]:
        first = asyncio.create_task(batcher.ask([0]))
        await asyncio.to_thread(begun.wait, 10)
        waiting = [asyncio.create_task(batcher.ask([n])) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await batcher.ask([3])
        go.set()
        return await asyncio.gather(first, *waiting)

    assert asyncio.run(scene()) == [[0], [1], [2]]
    batcher.close()


def test_an_error_is_told_and_work_goes_on() -> None:
    def work(asked: list[int]) -> list[int]:
        if 13 in asked:
            raise KeyError("13")
        return asked

    batcher: Batcher[int, int] = Batcher(work, 4, 10, "test")
    with pytest.raises(KeyError):
        asyncio.run(batcher.ask([13]))
    assert asyncio.run(batcher.ask([7])) == [7]
    batcher.close()


def test_who_goes_away_leaves_the_others() -> None:
    begun, go = threading.Event(), threading.Event()

    def work(asked: list[int]) -> list[int]:
        begun.set()
        go.wait(10)
        return asked

    batcher: Batcher[int, int] = Batcher(work, 8, 10, "test")

    async def scene() -> list[int]:
        gone = asyncio.create_task(batcher.ask([1]))
        await asyncio.to_thread(begun.wait, 10)
        gone.cancel()
        stays = asyncio.create_task(batcher.ask([2]))
        await asyncio.sleep(0)
        go.set()
        return await stays

    assert asyncio.run(scene()) == [2]
    batcher.close()


def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    batcher: Batcher[int, int] = Batcher(lambda asked: asked, 1, 10, "test")

    async def scene() -> list[list[int]]:
        asked = [asyncio.create_task(batcher.ask([n])) for n in range(5)]
        await asyncio.sleep(0)
        await asyncio.to_thread(batcher.close)
        with pytest.raises(Busy):
            await batcher.ask([9])
        return await asyncio.gather(*asked)

    assert asyncio.run(scene()) == [[n] for n in range(5)]


def test_a_count_that_fails_ends_no_queue() -> None:
    def broken(size: int) -> None:
        raise OSError("no space left on device")

    async def both() -> None:
        queue: Batcher[int, int] = Batcher(lambda asked: asked, 4, 4, "test", broken)
        for _ in range(2):
            with pytest.raises(OSError, match="space"):
                await asyncio.wait_for(queue.ask([1]), 30)
        queue.close()

    asyncio.run(both())
