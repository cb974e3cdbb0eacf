"""Time of evaluation: ranks, metrics and the top ten of every user, for a model without cost and for a network.

* ``factored``: random item vectors ``(I, D)`` and one vector per user: the cost of ranking itself
* ``sasrec``: an untrained SASRec that reads the histories

Shapes: N queries, C candidates, I items, D width.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.types import Codes, DataSchema, Queries, Scores, Split

__all__ = ["RandomFactors", "run"]


class RandomFactors:
    """A factored recommender with random vectors."""

    def __init__(self, schema: DataSchema, embedding_dim: int) -> None:
        rng = np.random.default_rng(0)
        self.schema = schema
        self.vectors = rng.standard_normal((schema.n_items, embedding_dim)).astype(np.float32)
        self.bias = np.zeros(schema.n_items, np.float32)
        self.users = rng.standard_normal((schema.n_users, embedding_dim)).astype(np.float32)

    def encode(self, queries: Queries) -> NDArray[np.float32]:
        """Return the vectors of the queries' users ``(N, D)``."""
        return self.users[queries.users]

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Score the whole catalog ``(N, I)``, or the candidates ``(N, C)``."""
        scores: Scores = self.encode(queries) @ self.vectors.T
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def run(split: Split, embedding_dim: int = 64, length: int = 200, repeat: int = 3) -> dict[str, Any]:
    """Measure seconds (fastest) and users per second, for ranks alone and for the whole evaluation."""
    from segue.core.config import parse
    from segue.core.registry import model_class
    from segue.evaluation.evaluate import evaluate
    from segue.evaluation.ranking import rank

    schema = split.train.schema
    network = model_class("sasrec")
    sasrec = network(parse(network.Config, {"embedding_dim": embedding_dim, "max_length": length}, "sasrec"), schema)
    found: dict[str, Any] = {"users": len(split.test), "items": schema.n_items}
    for name, model in {"factored": RandomFactors(schema, embedding_dim), "sasrec": sasrec}.items():
        for what, call in {
            "rank": lambda m: rank(m, split.test, 10),
            "evaluate": lambda m: evaluate(m, split.test),
        }.items():
            times = []
            for _ in range(repeat):
                start = time.perf_counter()
                call(model)
                times.append(time.perf_counter() - start)
            found[f"{name}_{what}"] = {"seconds": min(times), "users_per_second": len(split.test) / min(times)}
    return found
