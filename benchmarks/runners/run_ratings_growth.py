"""Sweeps of ALS over simulated ratings of one size, in a fresh process."""

from __future__ import annotations

import numpy as np
from measure import Job

from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, Events, Vocab


def ratings(users: int, items: int, count: int, seed: int) -> Events:
    """Stars of people and items that are active and popular as the lognormal distribution has it; pairs may repeat."""
    rng = np.random.default_rng(seed)
    activity, popularity = (rng.lognormal(sigma=1.0, size=size) for size in (users, items))
    offsets = np.concatenate([[0], np.cumsum(rng.multinomial(count, activity / activity.sum()))])
    chances = np.cumsum(popularity / popularity.sum())
    codes, values = np.empty(count, np.int32), np.empty(count, np.float32)
    for start in range(0, count, 1_000_000):
        part = slice(start, min(count, start + 1_000_000))
        size = part.stop - part.start
        codes[part] = np.minimum(np.searchsorted(chances, rng.random(size)), items - 1)
        values[part] = rng.integers(1, 6, size)
    return Events(offsets, codes, values=values)


class Sweeps:
    """Keeps what is logged after each sweep."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take one sweep."""
        self.seconds.append(values["seconds"])


def main() -> None:
    kind = model_class("als")
    job = Job()  # with the model imported
    ask = job.settings
    events = ratings(ask["users"], ask["items"], ask["ratings"], ask["seed"])
    vocabs = (Vocab([str(code) for code in range(ask[name])]) for name in ("users", "items"))
    train = Dataset("ratings", *vocabs, events)
    logged = Sweeps()
    model = kind(kind.Config(width=ask["width"], sweeps=ask["sweeps"]), train.domain)
    model.fit(train, Run(ask["seed"], trackers=(logged,)), None)
    job.note(sweep_seconds=min(logged.seconds))
    job.finish()


main()
