"""What an event costs a streaming model whose states are kept: after few events, and after many."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from measure import Job

from segue.serving.server import assemble
from segue.serving.settings import Serving
from segue.serving.stores.store import Event

LENGTHS = (10, 1_000, 10_000)
CALLS = 50


def main() -> None:
    job = Job()
    ask = job.settings
    store = f"sqlite:///{Path(job.folder).resolve() / 'store.sqlite'}"
    service = assemble([Path(ask["publication"])], store, None, Serving())
    rng, points = np.random.default_rng(ask["seed"]), []
    for length in LENGTHS:
        user = f"new{length}"
        service.take([Event(user, f"i{item}", 0) for item in rng.integers(1_000, size=length).tolist()])
        service.follow([user])
        took = []
        for item in rng.integers(1_000, size=CALLS).tolist():
            service.take([Event(user, f"i{item}", 0)])
            start = time.perf_counter()
            service.follow([user])
            took.append(1000 * (time.perf_counter() - start))
        (memory,) = service.store.memories([user], service.shelf.active.version.version)
        points.append({"events": length, "ms": float(np.median(took[5:])), "bytes": len(memory.data)})
    job.note(points=points)
    job.finish()


main()
