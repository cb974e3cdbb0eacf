"""Cost of trackers and of the monitor: the same training with each of them, in turns.

``raises`` is a tracker whose calls fail, ``blocks`` one whose calls never return. Imports and connections are not part
of the time: they precede training or run beside it once.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import cpu_load

__all__ = ["page", "run"]

SOURCE = "simulated?users=1500&items=500"
CASES = ("nothing", "monitor", "tensorboard", "mlflow", "wandb", "raises", "blocks")


class Faulty:
    """A tracker that raises, or never returns."""

    def __init__(self, name: str) -> None:
        self.name, self._never = name, threading.Event()

    def start(self, about: Any, run_id: str | None) -> Any:
        from segue.training.trackers.client import StartedRun

        return StartedRun(None)

    def log(self, *arguments: Any) -> None:
        if self.name == "blocks":
            self._never.wait()
        raise ConnectionError("no route")

    log_results = finish = log

    def abandon(self) -> None:
        self._never.set()


def run(options: Any) -> dict[str, Any]:
    """Measure wall-clock and processor seconds of every case, in turns, and the time of single calls."""
    import segue

    rounds, epochs, source = (1, 2, "simulated?users=60&items=30") if options.quick else (9, 12, SOURCE)
    split = segue.split(segue.load(source))
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "source": source, "epochs": epochs, "rounds": rounds}
    times: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    for number in range(rounds + 1):
        for case in CASES[number % len(CASES) :] + CASES[: number % len(CASES)]:
            measured = _train(case, split.train, epochs)
            if number:  # the first round warms up
                times[case].append(measured)
    base = times["nothing"]
    found["cases"] = {
        case: {
            "seconds": median(wall for wall, _ in some),
            "cpu_seconds": median(cpu for _, cpu in some),
            "wall_percent": 100 * (median(one[0] / other[0] for one, other in zip(some, base, strict=True)) - 1),
            "cpu_percent": 100 * (median(one[1] / other[1] for one, other in zip(some, base, strict=True)) - 1),
        }
        for case, some in times.items()
    }
    found["sample_ms"], found["log_us"] = _time_calls()
    return found


@contextmanager
def _tracked(case: str) -> Iterator[tuple[Any, ...]]:
    """Connect the tracker of a case, and end it afterwards."""
    from segue.training.trackers.client import RunDescription
    from segue.training.trackers.tracking import Tracking, open_clients

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["WANDB_DIR"] = name
        address = {
            "tensorboard": "tensorboard",
            "mlflow": f"mlflow:sqlite:///{folder}/mlflow.db",
            "wandb": "wandb:benchmark?mode=offline",
        }
        clients: Any = open_clients([address[case]], folder) if case in address else []
        if case in ("raises", "blocks"):
            clients = [Faulty(case)]
        tracking, ready = Tracking(clients, folder, lambda text: None), threading.Event()
        tracking.start(RunDescription("run", folder, {"model.embedding_dim": 64}, {}))
        for tracker in tracking.trackers:
            tracker.submit(ready.set)
            ready.wait()
        yield tracking.trackers
        tracking.finish("finished")


def _train(case: str, data: Any, epochs: int) -> tuple[float, float]:
    """Train one model; return wall-clock and processor seconds of this process."""
    from segue.core.run import Run
    from segue.training.monitor import Monitor
    from segue.training.settings import Training
    from segue.training.train import train

    monitor = Monitor() if case == "monitor" else None
    with _tracked(case) as trackers, tempfile.TemporaryDirectory() as folder, monitor or nullcontext():
        run = Run(0, Path(folder), trackers=trackers, monitor=monitor)
        wall, cpu = time.perf_counter(), time.process_time()
        train("sasrec", {"embedding_dim": 64}, Training(epochs=epochs), data, run)
        return time.perf_counter() - wall, time.process_time() - cpu


def _time_calls() -> tuple[float, float]:
    """Return milliseconds of one sample of the monitor, and microseconds of one call of a tracker, in this thread."""
    from segue.training.monitor import Monitor
    from segue.training.trackers.background import BackgroundTracker

    client: Any = Faulty("raises")
    tracker = BackgroundTracker(client, lambda: None, lambda text: None)
    values = {f"metric {number}": 0.5 for number in range(20)}
    samples = _median_seconds(Monitor()._sample)
    calls = _median_seconds(lambda: tracker.log(1, values))
    tracker.close()
    return 1e3 * samples, 1e6 * calls


def _median_seconds(call: Callable[[], object], repeat: int = 500) -> float:
    found = []
    for _ in range(repeat):
        start = time.thread_time()
        call()
        found.append(time.thread_time() - start)
    return median(found)


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    lines = [
        "# Cost of trackers and monitor",
        "",
        f"`sasrec` with width 64 on `{found['source']}`, {found['epochs']} epochs, {found['rounds']} rounds in which "
        "the cases take turns. Percentages are medians of the ratios to the same round without tracker and monitor.",
        "",
        "| case | wall-clock, s | change | processor, s | change |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for case, one in found["cases"].items():
        lines.append(
            f"| {case} | {one['seconds']:.2f} | {one['wall_percent']:+.1f} % | {one['cpu_seconds']:.2f} "
            f"| {one['cpu_percent']:+.1f} % |"
        )
    lines += [
        "",
        f"One sample of the monitor takes {found['sample_ms']:.2f} ms, of which there is one per second; passing the "
        f"values of an epoch to a tracker takes {found['log_us']:.0f} µs of the training thread. The monitor also "
        "counts the operations of one batch before training, which takes as long as two or three steps.",
    ]
    return "\n".join(lines) + "\n"
