"""Models of the knowledge graph next to simple baselines, published figures and the same models without triples.

Models train on the training part and choose their best state, like all settings, by Recall@10 on validation. Networks
are trained with three seeds. Each model of the graph is also trained with the same settings on the same data without
the triples: the difference is what the graph adds.

``kg-lastfm`` and ``kg-book-crossing`` have a fixed split. Published runs score a user by the training events alone and
remove the items of training and validation from the ranking of the test; so does this page. Others are split by
``leave_one_out``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.knowledge_page import page
from benchmarks.knowledge_rows import MODELS, PUBLISHED, QUICK, READ_BY, RELATED, VECTORS, WITH_GRAPH, WITHOUT
from segue.core.events import Codes, Events, Scores
from segue.core.knowledge.knowledge import Knowledge
from segue.core.model import Model, Recommender, Solver
from segue.core.recommend import recommend
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Dataset, HeldOut, Queries, Split
from segue.data import SplitSettings, load, split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.metrics import mrr, recall
from segue.evaluation.path_quality import measure_paths
from segue.evaluation.ranking import rank
from segue.evaluation.significance import compare_pair, holm_correction
from segue.experiment.plan import make_plan
from segue.features.knowledge import EntityVectorSettings, add_entity_vectors
from segue.models.hybrid.hybrid import Hybrid
from segue.training.train import train

__all__ = ["count_targets", "measure", "page", "run", "without_triples"]

N_MEMBERS = 5
"""Number of the models with the best validation recall that are combined."""
METRICS = {"recall@10": recall, "mrr@10": mrr}

Values = dict[str, NDArray[np.float64]]


class FromTraining:
    """Scores users by their training events, whatever the history of the query is."""

    def __init__(self, model: Recommender, histories: Events) -> None:
        self.model = model
        self.histories = histories
        self.schema = model.schema
        self.scale: Literal["logit", "score"] = getattr(model, "scale", "score")

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of the model for the training histories."""
        return self.model.score(replace(queries, history=self.histories.take(queries.users)), candidates)


def run(
    source: str | None, models: str | None, seeds: int, log: Callable[[str], None], quick: bool = False
) -> dict[str, Any]:
    """Measure the models on a source with the split ``lightkg``."""
    source = source or "kg-lastfm"
    keys = tuple(models.split(",")) if models else QUICK if quick else MODELS
    data = load(source, log=log)
    settings = SplitSettings(strategy="predefined", name="lightkg") if source in PUBLISHED else SplitSettings()
    parts = split(data, settings)
    overrides = ("training.epochs=2",) if quick else ()
    found = measure(source, parts, keys, range(1 if quick else seeds), log, overrides)
    about = {"users": data.n_users, "items": data.n_items, "hash": data.header.get("hash")}
    return {"source": source, "data": about, **found}


def measure(
    source: str,
    parts: Split,
    keys: Sequence[str],
    seeds: Sequence[int],
    log: Callable[[str], None],
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Train all models with all seeds, and the combination of the best on validation.

    Settings come from the recipes of the source.
    """
    bare = replace(parts, train=without_triples(parts.train))
    named = [(key, name) for key in keys for name in ([key, key + WITHOUT] if key in WITH_GRAPH else [key])]
    values: dict[str, dict[str, list[Values]]] = {}
    trained: dict[str, list[Model]] = {}
    seconds: dict[str, float] = {}
    for key, name in named:
        own = bare if name.endswith(WITHOUT) else parts
        started = time.process_time()
        trained[name] = _train(source, key, own, seeds, overrides)
        seconds[name] = (time.process_time() - started) / len(trained[name])
        values[name] = _measure_all(trained[name], own)
        log(f"{name}: validation {_mean(values[name]['valid'], 'recall@10').mean():.4f}, {seconds[name]:.0f} CPU s")
    single = [key for key in keys if key not in VECTORS]
    members = sorted(single, key=lambda key: -_mean(values[key]["valid"], "recall@10").mean())[:N_MEMBERS]
    combined = [_combine([(key, _of_seed(trained[key], at)) for key in members], parts) for at in range(len(seeds))]
    values["hybrid"] = _measure_all(combined, parts)
    tests, equal = _compare(values)
    listed: dict[str, Model] = {**{key: trained[key][0] for key in keys}, "hybrid": combined[0]}
    return {
        "seeds": list(seeds),
        "queries": len(parts.test),
        "targets": {"valid": count_targets(parts, parts.valid), "test": count_targets(parts, parts.test)},
        "recipes": {key: make_plan({"model": _model_key(key), "data": source}).task.recipe for key in keys},
        "rows": {key: _summarize(found) for key, found in values.items()},
        "members": list(members),
        "tests": tests,
        "equal": equal,
        "paths": {key: _paths(model, parts) for key, model in listed.items()},
        "cpu_seconds": seconds,
    }


def _model_key(key: str) -> str:
    return READ_BY if key in VECTORS else key


def _train(source: str, key: str, parts: Split, seeds: Sequence[int], overrides: Sequence[str]) -> list[Model]:
    """Train a model with each seed; once, if the seed changes nothing."""
    model = _model_key(key)
    is_network = not issubclass(model_class(model), Solver)
    plan = make_plan({"model": model, "data": source}, overrides if is_network else ())
    training = plan.training.model_copy(update={"metric": "recall@10"})
    validate = _validator(parts)
    return [
        train(model, plan.model, training, _data(key, parts.train, Run(seed)), Run(seed), validate)
        for seed in (seeds if is_network or key == "bpr" or key in VECTORS else [0])
    ]


def _data(key: str, data: Dataset, run: Run) -> Dataset:
    """Return the data that a row reads; for entity vectors, with no other item features."""
    if key not in VECTORS:
        return data
    settings = EntityVectorSettings.model_validate({"method": key})
    return add_entity_vectors(replace(data, item_features=None), settings, run=run)


def count_targets(parts: Split, held_out: HeldOut) -> dict[str, int]:
    """Count the true items, and those of them without an event in training."""
    events_I = np.bincount(parts.train.histories.items, minlength=parts.train.n_items)
    targets = held_out.targets.items
    return {"all": len(targets), "without_events": int((events_I[targets] == 0).sum())}


def _compare(values: Mapping[str, Mapping[str, Sequence[Values]]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Compare each model of the graph with itself without triples, and with the model that it extends.

    Rows with equal values for every query are the same model; they are compared once.

    Returns:
        The tests, with p-values corrected for all of them, and for each row left out the row that it equals.
    """
    recalls = {name: _mean(found["test"], "recall@10") for name, found in values.items()}
    tests, equal = {}, {}
    for key in (key for key in WITH_GRAPH if key in values):
        bare, other = key + WITHOUT, RELATED.get(key)
        tests[f"{key} - {bare}"] = replace(compare_pair(recalls[key], recalls[bare]), first=key, second=bare)
        if other is None or other not in values:
            continue
        if _have_equal_values(values[bare], values[other]):
            equal[other] = bare
        else:
            tests[f"{key} - {other}"] = replace(compare_pair(recalls[key], recalls[other]), first=key, second=other)
    adjusted = holm_correction([test.p for test in tests.values()])
    return {name: asdict(replace(one, p_holm=p)) for (name, one), p in zip(tests.items(), adjusted, strict=True)}, equal


def _have_equal_values(first: Mapping[str, Sequence[Values]], second: Mapping[str, Sequence[Values]]) -> bool:
    return all(
        np.array_equal(_mean(first[part], metric), _mean(second[part], metric)) for part in first for metric in METRICS
    )


def without_triples(data: Dataset) -> Dataset:
    """Return the data with the entities of its graph, but no triples."""
    known = data.knowledge_for("benchmark")
    none = np.zeros(0, np.int32)
    bare = Knowledge(known.entities, known.relations, none, none, none, known.item_entities)
    return replace(data, knowledge=bare)


def _scorer(model: Recommender, parts: Split) -> Recommender:
    """Return the model; in a fixed split, one that scores users by their training events."""
    return FromTraining(model, parts.train.histories) if parts.metadata["strategy"] == "predefined" else model


def _validator(parts: Split) -> Callable[[Recommender], Mapping[str, float]]:
    def validate(model: Recommender) -> Mapping[str, float]:
        return {name: float(column.mean()) for name, column in _rank(model, parts, parts.valid).items()}

    return validate


def _rank(model: Recommender, parts: Split, held_out: HeldOut) -> Values:
    ranks = rank(_scorer(model, parts), held_out, k=0)
    return {name: function(ranks, 10) for name, function in METRICS.items()}


def _measure_all(models: Sequence[Recommender], parts: Split) -> dict[str, list[Values]]:
    held_out = {"valid": parts.valid, "test": parts.test}
    return {name: [_rank(model, parts, part) for model in models] for name, part in held_out.items()}


def _of_seed(models: Sequence[Model], index: int) -> Model:
    return models[index % len(models)]


def _combine(members: Sequence[tuple[str, Model]], parts: Split) -> Hybrid:
    model = Hybrid(Hybrid.Config(members=tuple(key for key, _ in members)), parts.train.schema)
    model.use_members([member for _, member in members], parts.train)
    model.choose(_validator(parts))
    return model


def _mean(found: Sequence[Values], metric: str) -> NDArray[np.float64]:
    mean_N: NDArray[np.float64] = np.mean([one[metric] for one in found], axis=0)
    return mean_N


def _summarize(found: Mapping[str, Sequence[Values]]) -> dict[str, Any]:
    estimates = estimate_values({metric: _mean(found["test"], metric) for metric in METRICS}, 0)
    return {
        "valid": {metric: float(_mean(found["valid"], metric).mean()) for metric in METRICS},
        "test": {metric: asdict(one) for metric, one in estimates.items()},
        "by_seed": [float(one["recall@10"].mean()) for one in found["test"]],
    }


def _paths(model: Recommender, parts: Split) -> dict[str, float | None]:
    """Measure the paths to the recommendations of the first 500 test queries; ``None``: no path shares a vertex."""
    queries = parts.test.queries.rows_between(0, 500)
    lists = recommend(_scorer(model, parts), queries, 10)
    found = asdict(measure_paths(parts.train.knowledge_for("benchmark"), queries, lists))
    return {name: None if np.isnan(value) else value for name, value in found.items()}
