"""Time the update of a streaming model's stored state by an event, after few and after many events."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from measure import Job

from segue.serving.scheduling.steps import run_steps
from segue.serving.server import build_service
from segue.serving.settings import ServingSettings
from segue.serving.stores.store import Event

LENGTHS = (10, 1_000, 10_000)
CALLS = 50


def main() -> None:
    job = Job()
    options = job.settings
    store = f"sqlite:///{Path(job.folder).resolve() / 'store.sqlite'}"
    service = build_service([Path(options["artifact"])], store, None, ServingSettings())
    rng, points = np.random.default_rng(options["seed"]), []
    for length in LENGTHS:
        user = f"new{length}"
        service.append_events([Event(user, f"i{item}", 0) for item in rng.integers(1_000, size=length).tolist()])
        run_steps(service.update_user_states([user]))
        times = []
        for item in rng.integers(1_000, size=CALLS).tolist():
            service.append_events([Event(user, f"i{item}", 0)])
            start = time.perf_counter()
            run_steps(service.update_user_states([user]))
            times.append(1000 * (time.perf_counter() - start))
        (state,) = service.store.get_states([user], service.models.active.info.version)
        points.append({"events": length, "ms": float(np.median(times[5:])), "bytes": len(state.data)})
    job.record(points=points)
    job.finish()


main()
