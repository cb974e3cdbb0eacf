"""Time Segue's service in memory for one user, and write the artifact that is then served over HTTP."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from measure import Job

from segue.core import bundle
from segue.core.registry import model_class
from segue.core.types import Dataset, Events, Queries, Vocab
from segue.serving import schemas
from segue.serving.artifacts.artifact import build_artifact
from segue.serving.server import build_service
from segue.serving.service import PendingRequest
from segue.serving.settings import ServingSettings


def main() -> None:
    job = Job()
    options, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(options["threads"])
    vocabs = [Vocab([f"{prefix}{code}" for code in range(count)])
              for prefix, count in (("u", len(offsets) - 1), ("i", int(items.max()) + 1))]  # fmt: skip
    data = Dataset("log", *vocabs, Events(offsets, items))
    kind = model_class("sasrec")
    config = kind.Config(
        embedding_dim=options["embedding_dim"],
        num_blocks=options["num_blocks"],
        num_heads=options["num_heads"],
        max_length=options["length"],
    )
    model = kind(config, data.schema)
    model.eval()
    folder = Path(options["out"])
    build_artifact("sasrec", bundle.create("sasrec", model, data), data.histories, folder)
    service = build_service([folder], "memory:", None, ServingSettings())
    users = np.random.default_rng(options["seed"]).integers(data.n_users, size=options["calls"] + 20)

    def recommend(user: int) -> None:
        request = schemas.RecommendRequest(user=f"u{user}", k=options["k"])
        (response,) = service.recommend([PendingRequest(request, time.monotonic() + 60)])
        assert len(response.items) == options["k"]

    job.record(**latencies(recommend, users, ""), engine=service.models.active.info.engine)
    artifact = service.models.active.artifact

    def forward(user: int) -> None:
        history = artifact.histories.rows_between(user, user + 1)
        artifact.engine.model.encode(Queries.of_users(np.array([user], np.int32), history))

    job.record(**latencies(forward, users, "engine_"))
    job.finish()


def latencies(call, users, prefix: str) -> dict[str, float]:
    """Return median and 95 % quantile of the calls after the first twenty, in milliseconds."""
    times = []
    for user in users:
        start = time.perf_counter()
        call(int(user))
        times.append(1000 * (time.perf_counter() - start))
    return {f"{prefix}ms": float(np.median(times[20:])), f"{prefix}p95_ms": float(np.quantile(times[20:], 0.95))}


main()
