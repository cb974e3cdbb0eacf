"""Evaluation alone: ranks, metrics and the ten best of every user, for a model that is free and for one that is not.

* ``factored``: random vectors ``(I, D)`` and one per user: the price of ranking itself
* ``sasrec``: an untrained SASRec reading the histories
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, Domain, Queries, Scores, Split

__all__ = ["Vectors", "run"]


class Vectors:
    """A factored recommender of random vectors."""

    def __init__(self, domain: Domain, width: int) -> None:
        rng = np.random.default_rng(0)
        self.domain = domain
        self.vectors = rng.standard_normal((domain.n_items, width)).astype(np.float32)
        self.bias = np.zeros(domain.n_items, np.float32)
        self.users = rng.standard_normal((domain.n_users, width)).astype(np.float32)

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """``(N, D)``"""
        return self.users[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """``(N, I)``, or ``(N, C)`` of the candidates."""
        scores: Scores = self.encode(queries) @ self.vectors.T
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def run(split: Split, width: int = 64, length: int = 200, repeat: int = 3) -> dict[str, Any]:
    """Seconds (fastest) and users per second, by model, for ranks alone and for the whole evaluation."""
    from segue.core.config import parse
    from segue.core.registry import model_class
    from segue.evaluation.evaluate import evaluate
    from segue.evaluation.ranking import rank

    domain = split.train.domain
    network = model_class("sasrec")
    sasrec = network(parse(network.Config, {"width": width, "max_length": length}, "sasrec"), domain)
    found: dict[str, Any] = {"users": len(split.test), "items": domain.n_items}
    for name, model in {"factored": Vectors(domain, width), "sasrec": sasrec}.items():
        for what, ask in {
            "rank": lambda m: rank(m, split.test, 10),
            "evaluate": lambda m: evaluate(m, split.test),
        }.items():
            times = []
            for _ in range(repeat):
                start = time.perf_counter()
                ask(model)
                times.append(time.perf_counter() - start)
            found[f"{name}_{what}"] = {"seconds": min(times), "users_per_second": len(split.test) / min(times)}
    return found
