"""Time of evaluation: ranks, metrics and the top ten of every user, for a model without cost and for a network.

* ``factored``: random item vectors ``(I, D)`` and one vector per user: the cost of ranking itself
* ``sasrec``: an untrained SASRec that reads the histories
* ``list_metrics``: all metrics beyond accuracy that the data allows, on the lists of ``factored``, in addition to NDCG

Shapes: N queries, C candidates, I items, D width.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.core.config import parse
from segue.core.model import Recommender
from segue.core.registry import model_class
from segue.core.types import Codes, DataSchema, Dataset, Queries, Scores, Split
from segue.evaluation.beyond_accuracy.list_metrics import known_list_metrics
from segue.evaluation.beyond_accuracy.training_data import TrainingData
from segue.evaluation.evaluate import evaluate
from segue.evaluation.ranking import rank
from segue.experiment.evaluate import user_labels

__all__ = ["RandomFactors", "list_metric_names", "measure_list_metrics", "run"]


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
    schema = split.train.schema
    network = model_class("sasrec")
    sasrec = network(parse(network.Config, {"embedding_dim": embedding_dim, "max_length": length}, "sasrec"), schema)
    found: dict[str, Any] = {"users": len(split.test), "items": schema.n_items}
    calls: dict[str, Callable[[Recommender], object]] = {
        "rank": lambda m: rank(m, split.test, 10),
        "evaluate": lambda m: evaluate(m, split.test),
    }
    models: dict[str, Recommender] = {"factored": RandomFactors(schema, embedding_dim), "sasrec": sasrec}
    for name, model in models.items():
        for what, call in calls.items():
            times = []
            for _ in range(repeat):
                start = time.perf_counter()
                call(model)
                times.append(time.perf_counter() - start)
            found[f"{name}_{what}"] = {"seconds": min(times), "users_per_second": len(split.test) / min(times)}
    found["list_metrics"] = measure_list_metrics(RandomFactors(schema, embedding_dim), split, repeat)
    return found


def list_metric_names(train: Dataset) -> list[str]:
    """Return the metrics beyond accuracy that the data allows, with the features of MovieLens as arguments."""
    features = {
        kind: [] if table is None else table.collect_schema().names()
        for kind, table in (("item", train.item_features), ("user", train.user_features))
    }
    by_item = ("diversity", "unexpectedness", "serendipity", "miscalibration")
    by_tags = [*(f"{name}:genres@10" for name in by_item), "exposure:genres=Drama@10"]
    names = [f"{name}@10" for name in known_list_metrics() if name not in ("miscalibration", "exposure", "gap")]
    names += by_tags if "genres" in features["item"] else []
    return [*names, *(["gap:gender:ndcg@10"] if "gender" in features["user"] else [])]


def measure_list_metrics(model: RandomFactors, split: Split, repeat: int) -> dict[str, Any]:
    """Measure seconds (fastest) and the peak of allocated memory of an evaluation with all metrics beyond accuracy.

    Both are given for NDCG@10 alone, too, which ranks the same lists.
    """
    training, names = TrainingData.of(split.train), list_metric_names(split.train)
    labels = user_labels(split.test, split.train)
    found: dict[str, Any] = {"metrics": len(names)}
    for what, metrics in {"ndcg": ["ndcg@10"], "ndcg_and_list_metrics": ["ndcg@10", *names]}.items():
        times = []
        for _ in range(repeat):
            start = time.perf_counter()
            evaluate(model, split.test, metrics=metrics, training=training, labels=labels)
            times.append(time.perf_counter() - start)
        tracemalloc.start()
        evaluate(model, split.test, metrics=metrics, training=training, labels=labels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        found[what] = {"seconds": min(times), "peak_mib": peak / 2**20}
    return found
