"""Two stages compared with retrieval alone: accuracy and latency.

Each retriever is measured alone, and as the first stage of ``ranker`` with several click-through models, with the same
settings. Rankers learn from out-of-fold candidates of the training part; validation chooses the best epoch and the
ranker that is compared. The rankers of a retriever share what does not depend on them: the retriever itself, and the
one that is trained without the held-out events. Latency is that of single queries within the process, one after the
other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.table_rows import head_lines, row_line
from segue.core.model import Model, Recommender, Solver
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import HeldOut, Split
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import hit_rate, ndcg
from segue.evaluation.ranking import rank
from segue.evaluation.significance import compare_pair
from segue.experiment.data import load_data
from segue.experiment.plan import make_plan
from segue.training.train import train

__all__ = ["RANKERS", "measure", "page", "run"]

RETRIEVERS = ("item_knn", "ease")
"""Solved in seconds; a network, which is trained twice per seed, takes hours."""
RANKERS: dict[str, dict[str, Any]] = {
    "gradient_boosting": {},
    "deepfm": {"epochs": 10, "learning_rate": 1e-3, "embedding_dim": 16},
}
"""Settings of the rankers. Models that read the history once per candidate, such as DIN, take ten times as long."""

QUICK: dict[str, dict[str, Any]] = {
    "gradient_boosting": {"iterations": 20, "min_examples": 5},
    "deepfm": {"epochs": 1, "hidden": [8]},
}

SPLITS: dict[str, tuple[str, ...]] = {"frappe": ("split.use_query_context=true",)}
"""Settings of the data by source."""

WITH_REPEATS = frozenset({"frappe"})
"""Sources where users return to items, which are then ranked too."""

N_CANDIDATES = 200
N_TIMED = 500
"""Queries whose latency is measured."""

METRICS = {"hit_rate@10": hit_rate, "ndcg@10": ndcg}

Values = dict[str, NDArray[np.float64]]


class SharedParts(Run):
    """A run that trains a part once for all models that have it.

    Args:
        seed: that of the models.
        parts: those trained so far, with their processor time; new ones are added.
    """

    def __init__(self, seed: int, parts: dict[str, tuple[Any, float]]) -> None:
        super().__init__(seed)
        self.parts = parts
        self.cpu_seconds = 0.0
        """Processor time of the trainings of all parts so far, wherever they took place."""

    def train_part(self, key: str, settings: Mapping[str, Any], data: Any, validate: Any, name: str) -> Any:
        """See :meth:`segue.core.run.Run.train_part`.

        Data of parts with the same seed, name and settings must be equal.
        """
        about = json.dumps([self.seed, name, settings], sort_keys=True)
        if about not in self.parts:
            started = time.process_time()
            part = super().train_part(key, settings, data, validate, name)
            self.parts[about] = part, time.process_time() - started
        part, seconds = self.parts[about]
        self.cpu_seconds += seconds
        return part


def run(source: str | None, models: str | None, seeds: int, log: Callable[[str], None], quick: bool) -> dict[str, Any]:
    """Measure all rows on a source.

    Args:
        source: default: MovieLens 1M; with ``quick`` a small simulated log.
        models: the retrievers, separated by commas.
    """
    import torch

    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-1m")
    retrievers = tuple(models.split(",")) if models else ("ease",) if quick else RETRIEVERS
    plan = make_plan({"model": retrievers[0], "data": source}, SPLITS.get(source, ()))
    data = load_data(plan)
    parts = split(data, plan.split)
    load = cpu_load()
    rankers = QUICK if quick else RANKERS
    found = measure(source, parts, retrievers, rankers, range(1 if quick else seeds), log, quick)
    about = {"users": data.n_users, "items": data.n_items, "hash": data.header.get("hash")}
    threads = torch.get_num_threads()
    return {"source": source, "data": about, "load_before_percent": load, "threads": threads, **found}


def measure(
    source: str,
    parts: Split,
    retrievers: Sequence[str],
    rankers: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    log: Callable[[str], None],
    quick: bool = False,
) -> dict[str, Any]:
    """Return a row per retriever and per combination, and the tests of the best ranker of each retriever."""
    excludes = source not in WITH_REPEATS
    validate = make_validator(parts.valid, "ndcg@10", excludes)
    values: dict[str, dict[str, list[Values]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for retriever in retrievers:
        plan = make_plan({"model": retriever, "data": source}, [*SPLITS.get(source, ())])
        training = plan.training.model_copy(update={"epochs": 1} if quick else {})
        is_network = not issubclass(model_class(retriever), Solver)
        own = plan.model.model_dump() | (training.model_dump() if is_network else {})
        shared = dict[str, tuple[Any, float]]()
        models: dict[str, list[Any]] = {retriever: []}
        seconds: dict[str, float] = {}
        for ranker, settings in rankers.items():
            name = f"{retriever} + {ranker}"
            config: dict[str, Any] = {"retriever": retriever, "ranker": ranker, "num_candidates": N_CANDIDATES}
            config |= {"retrieve_seen": not excludes, "settings": {retriever: own, ranker: settings}}
            runs = [SharedParts(seed, shared) for seed in seeds]
            models[name] = [train("ranker", config, training, parts.train, run, validate) for run in runs]
            seconds[name] = sum(run.cpu_seconds for run in runs) / len(runs)
            log(f"{name}: {seconds[name]:.0f} CPU s")
        models[retriever] = [one.retriever for one in models[name]]
        seconds[retriever] = sum(spent for model, spent in shared.values() if model in models[retriever]) / len(seeds)
        for name, trained in models.items():
            values[name] = {
                part: [_measure_ranks(model, held_out, excludes) for model in trained]
                for part, held_out in (("valid", parts.valid), ("test", parts.test))
            }
            facts[name] = {"cpu_seconds": seconds[name], **measure_latency(trained[0], parts.test, quick)}
            facts[name]["recall"] = _candidate_recall(trained[0], parts.valid, excludes)
            log(f"{name}: validation {_mean(values[name]['valid'], 'ndcg@10').mean():.4f}")
    best = {
        retriever: max(
            (f"{retriever} + {ranker}" for ranker in rankers),
            key=lambda name: float(_mean(values[name]["valid"], "ndcg@10").mean()),
        )
        for retriever in retrievers
    }
    tests = {
        f"{best[key]} - {key}": asdict(
            compare_pair(_mean(values[best[key]]["test"], "ndcg@10"), _mean(values[key]["test"], "ndcg@10"))
        )
        for key in retrievers
    }
    rows = {name: _summarize(found) | facts[name] for name, found in values.items()}
    settings = {key: dict(value) for key, value in rankers.items()}
    return {"seeds": list(seeds), "queries": len(parts.test), "rows": rows, "tests": tests, "settings": settings}


def measure_latency(model: Recommender, held_out: HeldOut, quick: bool = False) -> dict[str, float]:
    """Return the median and the 99th percentile of single queries in milliseconds, and their processor time."""
    count = min(20 if quick else N_TIMED, len(held_out))
    queries = [held_out.queries.rows_between(row, row + 1) for row in range(count)]
    for query in queries[:10]:
        recommend(model, query, 10)
    seconds, started = [], time.process_time()
    for query in queries:
        start = time.perf_counter()
        recommend(model, query, 10)
        seconds.append(time.perf_counter() - start)
    cpu = (time.process_time() - started) / count
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50_ms": float(p50) * 1e3, "p99_ms": float(p99) * 1e3, "cpu_ms": cpu * 1e3}


def _candidate_recall(model: Model, held_out: HeldOut, excludes: bool) -> float | None:
    """Return the share of validation targets among the candidates; ``None`` for one stage."""
    if not hasattr(model, "retriever"):
        return None
    ranks = rank(model.retriever, held_out, k=0, exclude_seen=excludes)
    return float(hit_rate(ranks, N_CANDIDATES).mean())


def _measure_ranks(model: Recommender, held_out: HeldOut, excludes: bool) -> Values:
    ranks = rank(model, held_out, k=0, exclude_seen=excludes)
    return {name: function(ranks, 10) for name, function in METRICS.items()}


def _mean(found: Sequence[Values], metric: str) -> NDArray[np.float64]:
    mean_N: NDArray[np.float64] = np.mean([one[metric] for one in found], axis=0)
    return mean_N


def _summarize(found: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    estimates = estimate_values({metric: _mean(found["test"], metric) for metric in METRICS}, 0)
    return {
        "valid": float(_mean(found["valid"], "ndcg@10").mean()),
        "test": {metric: asdict(one) for metric, one in estimates.items()},
        "by_seed": [float(one["ndcg@10"].mean()) for one in found["test"]],
    }


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    seeds, source = len(found["seeds"]), found["source"]
    retrievers = [name for name in found["rows"] if " + " not in name]
    option = "" if retrievers == list(RETRIEVERS) else f" --models {','.join(retrievers)}"
    option += "" if seeds == 3 else f" --seeds {seeds}"
    repeats = "items of the history included" if found["source"] in WITH_REPEATS else "seen items removed"
    lines = [
        f"# Two stages: {source}",
        "",
        f"Leave-one-out, {found['queries']:,} test queries, whole catalog of {found['data']['items']:,} items, "
        f"{repeats}; {seeds} seed{'s' if seeds > 1 else ''}. A ranker orders {N_CANDIDATES} candidates of its "
        "retriever, which has the same settings alone. Recall: share of the validation targets among the candidates. "
        f"Latency: single queries in the process, {found['threads']} thread(s). Brackets: 95 % interval over users, of "
        "the mean over the seeds.",
        "",
        "```sh",
        f"python -m benchmarks two_stage --source {source}{option} --out docs/results",
        "```",
        "",
    ]
    numbers = ["validation NDCG@10", "HR@10", "NDCG@10", "recall", "p50, ms", "p99, ms", "CPU, ms", "training, CPU s"]
    lines += head_lines(["model", *numbers], len(numbers))
    for name, row in found["rows"].items():
        cells = [
            f"{row['test'][metric]['mean']:.4f} [{row['test'][metric]['low']:.4f}, {row['test'][metric]['high']:.4f}]"
            for metric in METRICS
        ]
        recall = "" if row["recall"] is None else f"{row['recall']:.3f}"
        times = [f"{row[key]:.2f}" for key in ("p50_ms", "p99_ms", "cpu_ms")]
        lines.append(row_line([name, f"{row['valid']:.4f}", *cells, recall, *times, f"{row['cpu_seconds']:,.0f}"]))
    lines += ["", "NDCG@10 of the ranker that is best on validation, minus that of its retriever:", ""]
    for name, test in found["tests"].items():
        lines.append(
            f"- {name}: {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}], p = {test['p']:.4f} "
            "(paired randomization test)"
        )
    lines.append("")
    for key, settings in found["settings"].items():
        given = ", ".join(f"`{name}={value}`" for name, value in settings.items())
        lines.append(f"* {key}: {given or 'defaults of `ranker`'}")
    lines += [
        "* retrievers: their recipes for this source, or defaults; the best epoch was chosen on validation",
        "* training: processor time of a ranker and its two retrievers, which are trained once for all rankers",
        f"* data hash {found['data']['hash']}; one reading of the test part per row and seed",
    ]
    lines += [load_line(found).replace("**disturbed, not a result**", "**latencies are disturbed**")]
    return "\n".join([*lines, *describe_lines(found["machine"]), ""])
