"""Segue's side of one answer to one user, in memory; it leaves the publication to be asked over HTTP."""

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
from segue.serving.artifacts.artifact import publish
from segue.serving.server import assemble
from segue.serving.service import Timed
from segue.serving.settings import Serving


def main() -> None:
    job = Job()
    ask, (offsets, items) = job.settings, job.events()
    torch.set_num_threads(ask["threads"])
    vocabs = [Vocab([f"{sort}{code}" for code in range(count)])
              for sort, count in (("u", len(offsets) - 1), ("i", int(items.max()) + 1))]  # fmt: skip
    data = Dataset("log", *vocabs, Events(offsets, items))
    kind = model_class("sasrec")
    config = kind.Config(width=ask["width"], blocks=ask["blocks"], heads=ask["heads"], max_length=ask["length"])
    model = kind(config, data.domain)
    model.eval()
    place = Path(ask["out"])
    publish("sasrec", bundle.of("sasrec", model, data), data.histories, place)
    service = assemble([place], "memory:", None, Serving())
    users = np.random.default_rng(ask["seed"]).integers(data.n_users, size=ask["calls"] + 20)

    def one(user: int) -> None:
        (answer,) = service.answer([Timed(schemas.Question(user=f"u{user}", k=ask["k"]), time.monotonic() + 60)])
        assert len(answer.items) == ask["k"]

    job.note(**timed(one, users, ""), engine=service.shelf.active.version.engine)
    publication = service.shelf.active.publication

    def forward(user: int) -> None:
        history = publication.histories.block(user, user + 1)
        publication.engine.model.encode(Queries.of_users(np.array([user], np.int32), history))

    job.note(**timed(forward, users, "engine_"))
    job.finish()


def timed(call, users, prefix: str) -> dict[str, float]:
    """The median of the calls after the first twenty, and what 95 % are within, in milliseconds."""
    took = []
    for user in users:
        start = time.perf_counter()
        call(int(user))
        took.append(1000 * (time.perf_counter() - start))
    return {f"{prefix}ms": float(np.median(took[20:])), f"{prefix}p95_ms": float(np.quantile(took[20:], 0.95))}


main()
