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

from benchmarks.machine import describe_lines
from benchmarks.verdicts import Verdict, compare_figures
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
from segue.models.hybrid.hybrid import Hybrid
from segue.training.train import train

__all__ = ["MODELS", "PUBLISHED", "measure", "page", "run", "without_triples"]

MODELS = ("popular", "ease", "item_knn", "ials", "bpr", "lightgcn", "cease", "kgcn", "kgat", "lightkg")
QUICK = ("popular", "ease", "cease", "lightkg")
WITH_GRAPH = ("cease", "kgcn", "kgat", "lightkg")
WITHOUT = " without triples"
"""End of the name of a row with the same model and settings, but no triples."""
N_MEMBERS = 5
"""Number of the models with the best validation recall that are combined."""
METRICS = {"recall@10": recall, "mrr@10": mrr}

PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "kg-lastfm": {
        "KGCN": (0.2149, 0.0924),
        "KGAT": (0.2583, 0.1152),
        "LightGCN": (0.2695, 0.1204),
        "KGIN": (0.2727, 0.1242),
        "LightKG": (0.2976, 0.1351),
        "AdaKG": (0.3053, 0.1398),
    },
    "kg-book-crossing": {
        "KGCN": (0.0867, 0.0433),
        "LightGCN": (0.0468, 0.0198),
        "LightKG": (0.1144, 0.0520),
        "AdaKG": (0.1112, 0.0552),
    },
}
"""Recall@10 and MRR@10 in the README of ssu-dmlab/AdaKG, on the split of LightKG."""

NOTES = {
    "kg-book-crossing": "The triples are those of weifeng-ai/SARC, in place of the file of the published runs, which "
    "may differ: a figure above a published one is no win with equal inputs.",
}
"""What a page states about the published figures, by source."""

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
    rows_of = {key: [key, key + WITHOUT] if key in WITH_GRAPH else [key] for key in keys}
    values: dict[str, dict[str, list[Values]]] = {}
    trained: dict[str, list[Model]] = {}
    seconds: dict[str, float] = {}
    for key, name in ((key, name) for key, names in rows_of.items() for name in names):
        is_network = not issubclass(model_class(key), Solver)
        plan = make_plan({"model": key, "data": source}, overrides if is_network else ())
        training = plan.training.model_copy(update={"metric": "recall@10"})
        own = bare if name.endswith(WITHOUT) else parts
        started = time.process_time()
        trained[name] = [
            train(key, plan.model, training, own.train, Run(seed), _validator(own))
            for seed in (seeds if is_network or key == "bpr" else [0])
        ]
        seconds[name] = (time.process_time() - started) / len(trained[name])
        values[name] = _measure_all(trained[name], own)
        log(f"{name}: validation {_mean(values[name]['valid'], 'recall@10').mean():.4f}, {seconds[name]:.0f} CPU s")
    members = sorted(keys, key=lambda key: -_mean(values[key]["valid"], "recall@10").mean())[:N_MEMBERS]
    combined = [_combine([(key, _of_seed(trained[key], at)) for key in members], parts) for at in range(len(seeds))]
    values["hybrid"] = _measure_all(combined, parts)
    rows = {key: _summarize(found) for key, found in values.items()}
    recalls = {name: _mean(found["test"], "recall@10") for name, found in values.items()}
    tests = {
        f"{key} - {other}": asdict(compare_pair(recalls[key], recalls[other]))
        for key in WITH_GRAPH
        for other in (key + WITHOUT, "ease" if key == "cease" else "lightgcn")
        if key in recalls and other in recalls
    }
    listed: dict[str, Model] = {**{key: trained[key][0] for key in keys}, "hybrid": combined[0]}
    paths = {key: _paths(model, parts) for key, model in listed.items()}
    return {
        "seeds": list(seeds),
        "queries": len(parts.test),
        "rows": rows,
        "members": list(members),
        "tests": tests,
        "paths": paths,
        "cpu_seconds": seconds,
    }


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


def _paths(model: Recommender, parts: Split) -> dict[str, float]:
    """Measure the paths to the recommendations of the first 500 test queries."""
    queries = parts.test.queries.rows_between(0, 500)
    lists = recommend(_scorer(model, parts), queries, 10)
    return asdict(measure_paths(parts.train.knowledge_for("benchmark"), queries, lists))


def _protocol(source: str) -> str:
    if source not in PUBLISHED:
        return "Split `leave_one_out`; seen items are removed from the ranking."
    return (
        "Split `lightkg`. Models train on the training part, and users are scored by their training events; the items "
        "of training and validation are removed from the ranking."
    )


def page(found: Mapping[str, Any]) -> str:
    """Format the tables."""
    source, seeds = found["source"], len(found["seeds"])
    keys = [name for name in found["rows"] if name in MODELS]
    option = "" if set(keys) == set(MODELS) else f" --models {','.join(keys)}"
    option += "" if seeds == 3 else f" --seeds {seeds}"
    lines = [
        f"# Knowledge graph: {source}",
        "",
        f"{_protocol(source)} {found['queries']:,} test queries, whole catalog. Settings (`recipes/{source}`, defaults "
        "without; a recipe lists the settings that were tried, more for some than for others) and the best state "
        "of training were chosen by Recall@10 on validation. `hybrid` combines "
        f"{', '.join(f'`{key}`' for key in found['members'])}, the best on validation without the rows that lack the "
        f"triples. Brackets: 95 % interval over users, of the mean over {seeds} seeds.",
        "",
        "```sh",
        f"python -m benchmarks knowledge --source {source}{option}",
        "```",
        "",
        "| model | graph | validation Recall@10 | Recall@10 | MRR@10 | Recall@10 by seed | CPU seconds |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, row in sorted(found["rows"].items(), key=lambda pair: -pair[1]["valid"]["recall@10"]):
        cells = [
            f"{row['test'][metric]['mean']:.4f} [{row['test'][metric]['low']:.4f}, {row['test'][metric]['high']:.4f}]"
            for metric in METRICS
        ]
        by_seed = ", ".join(f"{value:.4f}" for value in row["by_seed"])
        graph = "yes" if name in WITH_GRAPH else ""
        seconds = f"{found['cpu_seconds'][name]:.0f}" if name in found["cpu_seconds"] else ""
        lines.append(
            f"| `{name}` | {graph} | {row['valid']['recall@10']:.4f} | {' | '.join(cells)} | {by_seed} | {seconds} |"
        )
    published = sorted(PUBLISHED.get(source, {}).items(), key=lambda pair: -pair[1][0])
    lines += [f"| {name}, published | | | {one:.4f} | {other:.4f} | | |" for name, (one, other) in published]
    if published:
        lines += ["", "Published figures are those of the README of ssu-dmlab/AdaKG, its runs on the same split."]
        lines += ["", NOTES[source]] if source in NOTES else []
        lines += ["", *_target_lines(found["rows"], PUBLISHED[source])]
    if found["tests"]:
        lines += ["", "Paired randomization tests over users, of the means over the seeds; Holm's correction.", ""]
        lines += ["| with the graph - without | difference of Recall@10 | p |", "| --- | ---: | ---: |"]
        adjusted = holm_correction([one["p"] for one in found["tests"].values()])
        for (name, one), p in zip(found["tests"].items(), adjusted, strict=True):
            lines.append(f"| {name} | {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}] | {p:.4f} |")
    lines += [""]
    lines += [
        "Paths of two triples, or one, from an item of the history to the recommended items, 500 queries, first seed:",
        "",
        "| model | recommendations with a path | paths | distinct relations per item | popularity of the entity |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, one in found["paths"].items():
        lines.append(
            f"| `{name}` | {one['share_with_path']:.3f} | {one['mean_paths']:.2f} | {one['relation_diversity']:.3f} | "
            f"{one['entity_popularity']:.3f} |"
        )
    lines += [
        "",
        f"Data: {found['data']['users']:,} users, {found['data']['items']:,} items, hash `{found['data']['hash']}`.",
    ]
    return "\n".join([*lines, "", *describe_lines(found["machine"])] if "machine" in found else lines) + "\n"


def _target_lines(rows: Mapping[str, Any], published: Mapping[str, tuple[float, float]]) -> list[str]:
    """Compare the best row of validation with the best published figures."""
    best = max(rows, key=lambda name: rows[name]["valid"]["recall@10"])
    lines = []
    for at, metric in enumerate(METRICS):
        one = rows[best]["test"][metric]
        figure = max(figures[at] for figures in published.values())
        verdict = compare_figures((one["low"], one["high"]), figure, is_error=False)
        words = {Verdict.BETTER: "above it", Verdict.ON_PAR: "on par (the interval holds it)"}.get(verdict, "below it")
        name = {"recall@10": "Recall@10", "mrr@10": "MRR@10"}[metric]
        lines.append(
            f"* {name}: `{best}`, the best on validation, {one['mean']:.4f} [{one['low']:.4f}, {one['high']:.4f}]; "
            f"best published {figure:.4f}: {words}"
        )
    return lines
