"""Time ALS iterations on simulated ratings of one size."""

from __future__ import annotations

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab


def simulate_ratings(users: int, items: int, count: int, seed: int) -> Events:
    """Draw ratings with lognormal user activity and item popularity; pairs may repeat."""
    rng = np.random.default_rng(seed)
    activity, popularity = (rng.lognormal(sigma=1.0, size=size) for size in (users, items))
    offsets = np.concatenate([[0], np.cumsum(rng.multinomial(count, activity / activity.sum()))])
    cumulative = np.cumsum(popularity / popularity.sum())
    codes, values = np.empty(count, np.int32), np.empty(count, np.float32)
    for start in range(0, count, 1_000_000):
        part = slice(start, min(count, start + 1_000_000))
        size = part.stop - part.start
        codes[part] = np.minimum(np.searchsorted(cumulative, rng.random(size)), items - 1)
        values[part] = rng.integers(1, 6, size)
    return Events(offsets, codes, values=values)


class IterationLog:
    """A tracker that stores the seconds of each iteration."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        """Store one iteration."""
        self.seconds.append(values["seconds"])


def main() -> None:
    model_type = model_class("als")
    job = Job()  # after the imports of the model
    options = job.settings
    events = simulate_ratings(options["users"], options["items"], options["ratings"], options["seed"])
    vocabs = (Vocab([str(code) for code in range(options[name])]) for name in ("users", "items"))
    train = Dataset("ratings", *vocabs, events)
    logged = IterationLog()
    model = model_type(
        model_type.Config(embedding_dim=options["embedding_dim"], iterations=options["iterations"]), train.schema
    )
    model.fit(train, Run(options["seed"], trackers=(logged,)), None)
    job.record(iteration_seconds=min(logged.seconds))
    job.finish()


main()
