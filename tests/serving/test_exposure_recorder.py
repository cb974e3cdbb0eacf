"""Exposures are recorded in the background, also those of a time without a store."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

import pytest
from servers import eventually
from starlette.testclient import TestClient

from segue.serving.app import create_app
from segue.serving.experiments import exposure_recorder
from segue.serving.experiments.assignment import Experiments
from segue.serving.experiments.exposure_recorder import ExposureRecorder
from segue.serving.experiments.outcomes import collect_outcomes
from segue.serving.monitoring.metrics import Metrics
from segue.serving.stores.store import OUTCOME_UNKNOWN, Event, Exposure, Store, StoreError
from tests.serving.memory_store import MemoryStore
from tests.serving.world import service


def exposure(number: int, user: str = "ann") -> Exposure:
    return Exposure("e", "control", user, 1_000 + number, (f"i{number}", "j"))


class Writer:
    """Stores exposures, and raises ``error`` while it is set."""

    def __init__(self) -> None:
        self.written: list[Exposure] = []
        self.error: Exception | None = None
        self.n_failures = 0
        self.is_executed = False
        """Whether a failing write stores the exposures."""

    def __call__(self, exposures: Sequence[Exposure]) -> None:
        if self.error is None or self.is_executed:
            self.written += exposures
        if self.error is not None:
            self.n_failures += 1
            raise self.error


class World:
    def __init__(self, **limits: Any) -> None:
        self.writer, self.metrics = Writer(), Metrics()
        self.recorder = ExposureRecorder(self.writer, self.metrics, **limits)

    def counts(self) -> tuple[int, int]:
        lines = self.metrics.render()[0].decode().splitlines()
        found = {line.partition(" ")[0]: int(float(line.rpartition(" ")[2])) for line in lines if line[0] != "#"}
        return tuple(found[f'segue_exposures_total{{result="{name}"}}'] for name in ("stored", "dropped"))  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure_recorder, "RETRY_SECONDS", 0.01)


def messages(logs: io.StringIO) -> list[str]:
    return [json.loads(line)["message"] for line in logs.getvalue().splitlines()]


def test_exposures_are_written_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposure_recorder, "BATCH_SIZE", 3)
    world = World()
    for number in range(20):
        world.recorder.record([exposure(number)])
    world.recorder.close(60)
    assert world.writer.written == [exposure(number) for number in range(20)]
    assert (world.counts(), len(world.recorder)) == ((20, 0), 0)


def test_exposures_wait_for_the_store_and_are_each_stored_once(
    monkeypatch: pytest.MonkeyPatch, logs: io.StringIO
) -> None:
    monkeypatch.setattr(exposure_recorder, "BATCH_SIZE", 3)
    world = World()
    world.writer.error = StoreError("memory: cannot store exposures: Gone")
    for number in range(10):
        world.recorder.record([exposure(number)])
    eventually(lambda: world.writer.n_failures > 5)
    assert (world.writer.written, len(world.recorder)) == ([], 10)
    world.writer.error = None
    eventually(lambda: not len(world.recorder))
    world.recorder.close(60)
    assert world.writer.written == [exposure(number) for number in range(10)]
    assert messages(logs) == [
        "exposures wait for the event store: memory: cannot store exposures: Gone",
        "all waiting exposures are stored; 0 were dropped",
    ]


@pytest.mark.parametrize("limits", [{"max_exposures": 4}, {"max_bytes": 1_600}])
def test_the_newest_are_dropped_if_there_are_too_many(limits: dict[str, int], logs: io.StringIO) -> None:
    world = World(**limits)
    world.writer.error = StoreError("gone")
    for number in range(10):
        world.recorder.record([exposure(number)])
    eventually(lambda: world.writer.n_failures > 0)
    assert len(world.recorder) == 4
    world.writer.error = None
    eventually(lambda: not len(world.recorder))
    world.recorder.record([exposure(10)])
    world.recorder.close(60)
    assert world.writer.written == [exposure(number) for number in (0, 1, 2, 3, 10)]
    assert world.counts() == (5, 6)
    assert sorted(messages(logs)) == [
        "all waiting exposures are stored; 6 were dropped",
        "exposures are dropped, as the event store does not accept them",
        "exposures wait for the event store: gone",
    ]


def test_an_exposure_stored_twice_counts_once() -> None:
    world, store = World(), MemoryStore()
    world.writer.error, world.writer.is_executed = StoreError(f"lost; {OUTCOME_UNKNOWN}"), True
    world.recorder.record([exposure(0, "ann"), exposure(1, "bob"), exposure(2, "ann")])
    eventually(lambda: world.writer.n_failures >= 1)
    world.writer.error = None
    world.recorder.close(60)
    assert len(world.writer.written) > 3
    for event in (Event("ann", "j", 2_000, "purchase", 3.0), Event("bob", "x", 2_000, "purchase", 5.0)):
        store.append([event])
    for shown in (False, True):
        store.exposure_log = list(world.writer.written)
        twice = collect_outcomes(store, "e", value=True, shown=shown)
        store.exposure_log = [exposure(0, "ann"), exposure(1, "bob"), exposure(2, "ann")]
        once = collect_outcomes(store, "e", value=True, shown=shown)
        assert twice.values.tolist() == once.values.tolist()
        assert twice.starts.tolist() == once.starts.tolist()
        assert (len(twice), twice.n_switched) == (len(once), 0)


def test_exposures_that_cannot_be_stored_do_not_block_others(logs: io.StringIO) -> None:
    world = World()
    world.writer.error = ValueError("secret")
    world.recorder.record([exposure(0)])
    eventually(lambda: not len(world.recorder))
    world.writer.error = None
    world.recorder.record([exposure(1)])
    world.recorder.close(60)
    assert (world.writer.written, world.counts()) == ([exposure(1)], (1, 1))
    assert "secret" not in logs.getvalue()


def test_closing_writes_what_waits_or_gives_up() -> None:
    world = World()
    world.writer.error = StoreError("gone")
    world.recorder.record([exposure(0)])
    eventually(lambda: world.writer.n_failures > 0)
    threading.Timer(0.2, lambda: setattr(world.writer, "error", None)).start()
    world.recorder.close(60)
    assert world.writer.written == [exposure(0)]

    world = World()
    world.writer.error = StoreError("gone")
    world.recorder.record([exposure(0), exposure(1)])
    world.recorder.close(0.1)
    assert world.counts() == (0, 2)


def test_a_user_deleted_meanwhile_is_not_recorded(store: Store) -> None:
    now, writer_error = int(time()), [StoreError("gone")]

    def write(exposures: Sequence[Exposure]) -> None:
        if writer_error:
            raise writer_error[0]
        store.record_exposures(exposures)

    recorder = ExposureRecorder(write, Metrics())
    recorder.record([Exposure("e", "control", user, now, ("a",)) for user in ("ann", "bob")])
    store.delete_user("ann")
    writer_error.clear()
    recorder.close(60)
    assert [one.user for one in store.exposures("e")] == ["bob"]


def test_exposures_of_an_outage_are_recorded_by_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variants = {"control": {"model": "sasrec", "share": 0.5}, "other": {"model": "ease", "share": 0.5}}
    (tmp_path / "plan.json").write_text(json.dumps({"experiments": [{"name": "a", "variants": variants}]}))
    it, stored = service("sasrec", "ease"), []
    record_exposures = it.store.wrapped.record_exposures

    def gone(*_: Any) -> None:
        raise StoreError("gone")

    def keep(exposures: Sequence[Exposure]) -> None:
        record_exposures(exposures)
        stored.extend(exposures)

    monkeypatch.setattr(it.store.wrapped, "record_exposures", gone)
    with TestClient(create_app(it, experiments=Experiments(tmp_path / "plan.json", it.models.keep_loaded))) as client:
        for user in range(5):
            assert client.post("/v1/recommend", json={"user": f"u{user}"}).status_code == 200
        threading.Event().wait(0.1)
        assert not stored
        monkeypatch.setattr(it.store.wrapped, "record_exposures", keep)
    assert [one.user for one in stored] == [f"u{user}" for user in range(5)]
