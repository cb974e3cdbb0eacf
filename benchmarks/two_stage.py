"""Two stages compared with retrieval alone: accuracy and latency.

Each retriever is measured alone, and as the first stage of ``ranker`` with several click-through models, with the same
settings. Settings of retrievers and rankers are chosen on validation with the first seed, those of rankers with the
retriever that is best alone. Rankers learn from out-of-fold candidates of the training part. The rankers of a retriever
share what does not depend on them: the retriever itself, and the one that is trained without the held-out events.

A ranker reads the context of the query, which retrievers do not: where the data has context, the ranker of each
retriever that is best on validation is also trained without it, and without single columns. Where users return to
items, the table has simple baselines: how often the user has chosen an item. Elsewhere each ranker is compared with
``transitions``, if that is a retriever, which counts what followed the last item.

Latency is that of single queries within the process, one after the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import cpu_load
from benchmarks.table_rows import correct
from benchmarks.two_stage_baselines import ALL_COLUMNS, GRIDS, OWN, WEIGHTED, baselines_of, make_baseline
from benchmarks.two_stage_page import page
from segue.core.model import Model, Recommender, Solver
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Split
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import hit_rate, ndcg
from segue.evaluation.ranking import rank
from segue.evaluation.significance import PairedTest, compare_pair
from segue.experiment.data import load_data
from segue.experiment.plan import Plan, make_plan
from segue.models.hybrid.ranker import Ranker
from segue.training.train import train

__all__ = ["RANKERS", "RETRIEVERS", "RETRIEVER_GRIDS", "SharedParts", "measure", "page", "run"]

WITH_TRANSITIONS = ("transitions", "item_knn", "ease")
RETRIEVERS: dict[str, tuple[str, ...]] = {
    "frappe": ("frequent", "user_knn", "ease"),
    **dict.fromkeys(("ml-1m", "ml-1m-sasrec"), WITH_TRANSITIONS),
}
"""By source; others have :data:`DEFAULT_RETRIEVERS`."""
DEFAULT_RETRIEVERS = ("item_knn", "ease")
"""Solved in seconds; a network, which is trained twice per seed, takes hours."""

RETRIEVER_GRIDS: dict[str, tuple[dict[str, Any], ...]] = {
    "transitions": tuple({"smoothing": one} for one in (0.1, 1.0, 10.0, 100.0)),
    "item_knn": tuple(
        {"half_life": life, "k": k, "weighting": name}
        for life, k, name in product((None, 1.0, 3.0, 10.0), (20, 100, 500), (None, "bm25"))
    ),
    "frequent": tuple({"smoothing": one} for one in (1.0, 10.0, 100.0)),
    "user_knn": tuple({"k": k, "weighting": name} for k, name in product((10, 30, 100, 300), (None, "bm25"))),
    "ease": tuple({"l2": l2} for l2 in (0.1, 0.5, 2.0, 5.0, 20.0, 50.0, 200.0, 500.0, 2_000.0)),
}
"""Changes to the recipe of the source, or to the defaults; other retrievers have those alone."""

SIMPLE_BASELINES = ("transitions",)
"""Retrievers that are also simple baselines, with which each ranker is compared."""

Grid = Mapping[str, Sequence[Mapping[str, Any]]]

DEEPFM = {"epochs": 10, "learning_rate": 1e-3, "embedding_dim": 16}
RANKERS: Grid = {"gradient_boosting": ({},), "deepfm": (DEEPFM,)}
"""Settings of the rankers to choose from; ``num_targets`` and ``inputs`` are those of ``ranker``. Models that read the
history once per candidate, such as DIN, take ten times as long."""
NUMBERS = ("context", "retrieval", "repeats")
"""Few inputs, in addition to the ids."""
RANKERS_OF: dict[str, Grid] = {
    "frappe": {
        "gradient_boosting": (
            *({"num_targets": count} for count in (1, 3)),
            *({"num_targets": count, "inputs": NUMBERS} for count in (1, 3, 10)),
        ),
        "deepfm": ({**DEEPFM, "num_targets": 1}, *({**DEEPFM, "num_targets": n, "inputs": NUMBERS} for n in (1, 3))),
        "logistic_regression": tuple({"num_targets": count, "inputs": NUMBERS} for count in (1, 3, 10)),
    }
}
"""The same by source, where they differ."""

QUICK: Grid = {
    "gradient_boosting": ({"iterations": 20, "min_examples": 5},),
    "deepfm": ({"epochs": 1, "hidden": [8]},),
}

SPLITS: dict[str, tuple[str, ...]] = {"frappe": ("split.use_query_context=true",)}
"""Settings of the data by source."""

WITH_REPEATS = frozenset({"frappe"})
"""Sources where users return to items, which are then ranked too."""

LEFT_OUT: dict[str, tuple[str, ...]] = {"frappe": ("cost",)}
"""Context columns without which the best rankers are trained, too: properties of the chosen item."""

N_CANDIDATES = 200
N_TIMED = 500
"""Queries whose latency is measured."""

CHOICE = "ndcg@10"
"""Metric of validation that chooses settings, epochs and rankers."""
METRICS = {"hit_rate@10": hit_rate, "ndcg@10": ndcg}

Values = dict[str, NDArray[np.float64]]
Log = Callable[[str], None]


class SharedParts(Run):
    """A run that trains a retriever once for all models that have it.

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

        Logs of parts with the same seed, name, settings and number of events must be equal. Models of examples are not
        shared.
        """
        size = data.histories.size if isinstance(data, Dataset) else None
        about = json.dumps([self.seed, name, settings, size], sort_keys=True)
        if size is None or about not in self.parts:
            started = time.process_time()
            part = super().train_part(key, settings, data, validate, name)
            found = part, time.process_time() - started
            if size is not None:
                self.parts[about] = found
        else:
            found = self.parts[about]
        part, seconds = found
        self.cpu_seconds += seconds
        return part


def run(source: str | None, models: str | None, seeds: int, log: Log, quick: bool) -> dict[str, Any]:
    """Measure all rows on a source.

    Args:
        source: default: MovieLens 1M; with ``quick`` a small simulated log.
        models: the retrievers, separated by commas.
    """
    import torch

    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-1m")
    retrievers = tuple(models.split(",")) if models else ("ease",) if quick else retrievers_of(source)
    plan = make_plan({"model": retrievers[0], "data": source}, SPLITS.get(source, ()))
    data = load_data(plan)
    parts = split(data, plan.split)
    load = cpu_load()
    rankers = QUICK if quick else RANKERS_OF.get(source, RANKERS)
    found = measure(source, parts, retrievers, rankers, range(1 if quick else seeds), log, quick)
    about = {"users": data.n_users, "items": data.n_items, "hash": data.header.get("hash")}
    options = ["--quick"] if quick else ["--models", models] if models else []
    options += [] if quick or seeds == 3 else ["--seeds", str(seeds)]
    facts = {"load_before_percent": load, "threads": torch.get_num_threads(), "options": options}
    return {"source": source, "data": about, **facts, **found}


def retrievers_of(source: str) -> tuple[str, ...]:
    """Return the retrievers that are measured by default."""
    return RETRIEVERS.get(source, DEFAULT_RETRIEVERS)


@dataclass
class Study:
    """Trains and measures the models of a source.

    Args:
        parts: the data.
        excludes: whether items of the history are left out.
    """

    source: str
    parts: Split
    seeds: Sequence[int]
    excludes: bool
    quick: bool
    log: Log

    def __post_init__(self) -> None:
        self.validate = make_validator(self.parts.valid, CHOICE, self.excludes)
        self.shared = dict[str, tuple[Any, float]]()
        self.rows: dict[str, dict[str, Any]] = {}
        self.values: dict[str, dict[str, list[Values]]] = {}
        self.grids: dict[str, list[tuple[dict[str, Any], float]]] = {}

    def choose(self, name: str, grid: Sequence[Mapping[str, Any]], make: Callable[[Any], Model]) -> dict[str, Any]:
        """Return the settings of a grid with the best validation metric; the first of equally good ones."""
        chosen = list(grid)[:2] if self.quick else list(grid)
        self.grids[name] = [(dict(one), float(self.validate(make(one))[CHOICE])) for one in chosen]
        best = max(self.grids[name], key=lambda one: one[1])
        self.log(f"{name}: {best[0]} of {len(chosen)} settings, validation {best[1]:.4f}")
        return best[0]

    def plan_of(self, retriever: str) -> Plan:
        """Return the recipe of a retriever for the source, or its defaults."""
        plan = make_plan({"model": retriever, "data": self.source}, [*SPLITS.get(self.source, ())])
        return replace(plan, training=plan.training.model_copy(update={"epochs": 1} if self.quick else {}))

    def settings_of(self, retriever: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a retriever, those of its training included for a network."""
        plan, is_network = self.plan_of(retriever), not issubclass(model_class(retriever), Solver)
        return plan.model.model_dump() | dict(changes) | (plan.training.model_dump() if is_network else {})

    def train_retriever(self, key: str, changes: Mapping[str, Any], seed: int) -> Model:
        """Train a retriever alone."""
        plan = self.plan_of(key)
        return train(
            key, plan.model.model_dump() | dict(changes), plan.training, self.parts.train, Run(seed), self.validate
        )

    def train_ranker(
        self,
        retriever: tuple[str, Mapping[str, Any]],
        ranker: tuple[str, Mapping[str, Any]],
        seed: int,
        left_out: Sequence[str] = (),
    ) -> tuple[Any, float]:
        """Train a combination, given by keys and settings; return it with its processor time.

        Args:
            left_out: context columns that are not read.
        """
        (retriever_key, changes), (ranker_key, settings) = retriever, ranker
        of_both = {name: value for name, value in settings.items() if name in ("num_targets", "inputs")}
        own = {name: value for name, value in settings.items() if name not in of_both}
        config: dict[str, Any] = {"retriever": retriever_key, "ranker": ranker_key, "num_candidates": N_CANDIDATES}
        config |= {"retrieve_seen": not self.excludes, **of_both}
        config |= {"settings": {retriever_key: self.settings_of(retriever_key, changes), ranker_key: own}}
        data, run = without_columns(self.parts.train, left_out), SharedParts(seed, self.shared)
        training = self.plan_of(retriever_key).training
        return train("ranker", config, training, data, run, self.validate), run.cpu_seconds

    def add(self, name: str, models: Sequence[Model], cpu_seconds: float) -> None:
        """Measure a row, a model per seed."""
        self.values[name] = {
            part: [_measure_ranks(model, held_out, self.excludes) for model in models]
            for part, held_out in (("valid", self.parts.valid), ("test", self.parts.test))
        }
        recall = _candidate_recall(models[0], self.parts.valid, self.excludes)
        latency = measure_latency(models[0], self.parts.test, self.quick)
        self.rows[name] = {**_summarize(self.values[name]), "recall": recall, "cpu_seconds": cpu_seconds, **latency}
        self.log(f"{name}: validation {self.rows[name]['valid']:.4f}, {cpu_seconds:.0f} CPU s")

    def compare(self, first: str, second: str) -> list[tuple[str, PairedTest]]:
        """Return the paired tests of two rows in each metric, without correction."""
        found = {name: self.values[name]["test"] for name in (first, second)}
        tests = []
        for metric in METRICS:
            one, other = (_mean(values, metric) for values in found.values())
            tests.append((metric, replace(compare_pair(one, other), first=first, second=second)))
        return tests


def measure(
    source: str,
    parts: Split,
    retrievers: Sequence[str],
    rankers: Grid,
    seeds: Sequence[int],
    log: Log,
    quick: bool = False,
) -> dict[str, Any]:
    """Return a row per baseline, retriever and combination, and the paired tests."""
    study = Study(source, parts, seeds, source not in WITH_REPEATS, quick, log)
    left_out = LEFT_OUT.get(source, ())
    baselines = {key: frozenset[str]() for key in retrievers if key in SIMPLE_BASELINES}
    if source in WITH_REPEATS:
        baselines = _add_baselines(study, left_out)
    chosen = {key: _choose_retriever(study, key) for key in retrievers}
    first = max(retrievers, key=lambda key: max(value for _, value in study.grids[key]))
    settings = {
        key: study.choose(f"{first} + {key}", grid, partial(_train_first, study, (first, chosen[first]), key))
        for key, grid in rankers.items()
    }
    best: dict[str, str] = {}
    inputs_of: dict[str, frozenset[str]] = {}
    columns = frozenset(one.name for one in parts.train.event_context)
    for key in retrievers:
        names = {ranker: f"{key} + {ranker}" for ranker in rankers}
        for ranker, name in names.items():
            _add_ranker(study, name, (key, chosen[key]), (ranker, settings[ranker]))
            inputs_of[name] = columns
        ranker = max(rankers, key=lambda one: float(study.rows[names[one]]["valid"]))
        best[key] = names[ranker]
        groups: dict[str, tuple[str, ...]]
        groups = {f"{best[key]}, without {name}": (name,) for name in left_out if name in columns}
        groups |= {f"{best[key]}, without context": tuple(sorted(columns))} if columns else {}
        for name, without in groups.items():
            _add_ranker(study, name, (key, chosen[key]), (ranker, settings[ranker]), left_out=without)
            inputs_of[name] = columns - {*without}
    return {
        "seeds": list(seeds),
        "queries": len(parts.test),
        "repeats": source in WITH_REPEATS,
        "context": sorted(columns),
        "left_out": {name: _share_of_one_value(parts.train, name) for name in left_out if name in columns},
        "baselines": list(baselines),
        "retrievers": list(retrievers),
        "rows": study.rows,
        "grids": study.grids,
        "tests": _tests(study, best, baselines, inputs_of),
    }


def without_columns(data: Dataset, names: Sequence[str]) -> Dataset:
    """Return the log without some context columns, for models that are trained on it."""
    if not names:
        return data
    context = {key: codes for key, codes in data.header["context"].items() if key not in names}
    columns = {key: column for key, column in data.histories.context.items() if key not in names}
    return replace(data, header={**data.header, "context": context}, histories=replace(data.histories, context=columns))


def _train_first(study: Study, retriever: Any, key: str, settings: Mapping[str, Any]) -> Model:
    """Train a combination with the first seed."""
    model: Model = study.train_ranker(retriever, (key, settings), study.seeds[0])[0]
    return model


def _add_baselines(study: Study, left_out: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """Measure the simple baselines; return the context columns that each reads."""
    found = baselines_of(study.parts.train, left_out)
    for name, columns in found.items():
        grid = GRIDS[name if name in (OWN, WEIGHTED) else ALL_COLUMNS]
        chosen = study.choose(name, grid, partial(make_baseline, study.parts.train, columns))
        study.add(name, [make_baseline(study.parts.train, columns, chosen)], 0.0)
    return {name: frozenset(columns) for name, columns in found.items()}


def _choose_retriever(study: Study, key: str) -> dict[str, Any]:
    """Return the changes to the recipe of a retriever."""
    grid = RETRIEVER_GRIDS.get(key, ({},))
    return study.choose(key, grid, lambda one: study.train_retriever(key, one, study.seeds[0]))


def _add_ranker(study: Study, name: str, retriever: Any, ranker: Any, **options: Any) -> None:
    """Train a combination with every seed and measure it, and its retriever before its first combination."""
    found = [study.train_ranker(retriever, ranker, seed, **options) for seed in study.seeds]
    if retriever[0] not in study.rows:
        models = [model.retriever for model, _ in found]
        spent = [seconds for model, seconds in study.shared.values() if any(model is one for one in models)]
        study.add(retriever[0], models, sum(spent) / len(models))
    study.add(name, [model for model, _ in found], float(np.mean([seconds for _, seconds in found])))


def _tests(
    study: Study,
    best: Mapping[str, str],
    baselines: Mapping[str, frozenset[str]],
    inputs_of: Mapping[str, frozenset[str]],
) -> list[dict[str, Any]]:
    """Return the best ranker of each retriever minus it, and each ranker minus the strongest simple baseline.

    The latter is, in each metric, the one with the highest value on the test part among those that read no context
    column that the ranker does not read. Holm's correction is over all tests.
    """
    found = [test for key in best for test in study.compare(best[key], key)]
    for name, inputs in inputs_of.items():
        equal = [other for other, columns in baselines.items() if columns <= inputs]
        for metric in METRICS if equal else ():
            strongest = max(equal, key=lambda other: float(study.rows[other]["test"][metric]["mean"]))
            if best.get(strongest) != name:  # else compared already, as its retriever
                found += [test for test in study.compare(name, strongest) if test[0] == metric]
    corrected = correct([test for _, test in found])
    return [{"metric": metric, **test} for (metric, _), test in zip(found, corrected, strict=True)]


def _share_of_one_value(data: Dataset, column: str) -> float:
    """Return the share of the items with this context column in training that have one value of it in all events."""
    codes_T = data.histories.context[column]
    is_known_T = codes_T >= 0
    pairs = np.unique(np.stack([data.histories.items[is_known_T], codes_T[is_known_T]]), axis=1)
    counts = np.unique(pairs[0], return_counts=True)[1]
    return float((counts == 1).mean())


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


def _candidate_recall(model: Model, held_out: HeldOut, excludes: bool) -> float:
    """Return the share of validation targets among the candidates, or among as many items of one stage."""
    if not isinstance(model, Ranker):
        return float(hit_rate(rank(model, held_out, k=0, exclude_seen=excludes), N_CANDIDATES).mean())
    found = []
    for start in range(0, len(held_out), 1_000):
        queries = held_out.queries.rows_between(start, start + 1_000)
        candidates_NC, is_valid_NC = model._candidates(model._retrieve(queries), queries)
        targets_N1 = held_out.targets.items[start : start + 1_000, None]  # one per query
        found.append(((candidates_NC == targets_N1) & is_valid_NC).any(axis=1))
    return float(np.concatenate(found).mean())


def _measure_ranks(model: Recommender, held_out: HeldOut, excludes: bool) -> Values:
    ranks = rank(model, held_out, k=0, exclude_seen=excludes)
    return {name: function(ranks, 10) for name, function in METRICS.items()}


def _mean(found: Sequence[Values], metric: str) -> NDArray[np.float64]:
    mean_N: NDArray[np.float64] = np.mean([one[metric] for one in found], axis=0)
    return mean_N


def _summarize(found: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    estimates = estimate_values({metric: _mean(found["test"], metric) for metric in METRICS}, 0)
    return {
        "valid": {metric: float(_mean(found["valid"], metric).mean()) for metric in METRICS}[CHOICE],
        "test": {metric: asdict(one) for metric, one in estimates.items()},
        "by_seed": [float(one[CHOICE].mean()) for one in found["test"]],
    }
