"""Combinations of models compared with their best member.

The members are trained once for each seed, with their recipes for the data, and combined in several ways; weights are
chosen on validation. The best member and the best combination are those that are best on validation, mean over the
seeds. Only these two are compared in a test, per user, on values that are means over the seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_lines
from segue.core.config import Settings
from segue.core.model import Solver
from segue.core.registry import model_class
from segue.core.run import Run
from segue.core.types import Split
from segue.data import load
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import evaluate, make_validator
from segue.evaluation.significance import compare_pair
from segue.experiment.plan import Plan, make_plan
from segue.models.hybrid.hybrid import Hybrid
from segue.training.train import Training, train

__all__ = ["MEMBERS", "METHODS", "measure", "page", "run"]

MEMBERS = {
    "ml-100k": ("sasrec", "xlstm", "ease", "item_knn"),
    "ml-1m": ("xlstm", "sasrec", "ease", "item_knn"),
    "ml-1m-sasrec": ("xlstm", "sasrec", "ease", "item_knn"),
    "amazon-beauty": ("sasrec", "ease", "item_knn"),
}
"""By source; others have those of MovieLens 100K."""

METHODS: dict[str, dict[str, Any]] = {
    "weighted": {},
    "weighted, equal weights": {"method": "weighted"},
    "rrf": {"method": "rrf"},
    "rrf, equal weights": {"method": "rrf"},
    "stacked": {"method": "stacked"},
}
"""Settings by the name of the row."""

METRICS = ("hit_rate@10", "ndcg@10")


def run(source: str | None, models: str | None, seeds: int, log: Callable[[str], None], quick: bool) -> dict[str, Any]:
    """Train the members with several seeds and combine them.

    Args:
        source: default: MovieLens 100K; with ``quick`` a small simulated log.
        models: the members, separated by commas.
    """
    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-100k")
    members = tuple(models.split(",")) if models else MEMBERS.get(source, MEMBERS["ml-100k"])
    plans = {key: make_plan({"model": key, "data": source}) for key in members}
    plan = next(iter(plans.values()))
    data = load(source, filters=plan.filters)
    parts = split(data, plan.split)
    settings = {key: _changed_settings(one, quick) for key, one in plans.items()}
    found = measure(parts, settings, range(1 if quick else seeds), log)
    return {
        "source": source,
        "recipes": {key: one.task.recipe for key, one in plans.items()},
        "data_hash": data.header.get("hash"),
        "queries": len(parts.test),
        "warnings": list(data.header.get("warnings", ())),
        **found,
    }


def _changed_settings(plan: Plan, quick: bool) -> dict[str, Any]:
    """Return the settings of a plan that differ from their defaults, those of training included."""

    def changed(settings: Settings) -> dict[str, Any]:
        values, defaults = (one.model_dump(mode="json") for one in (settings, type(settings)()))
        return {name: value for name, value in values.items() if value != defaults[name]}

    is_network = not issubclass(model_class(plan.task.model), Solver)
    found = changed(plan.model) | (changed(plan.training) if is_network else {})
    return found | ({"epochs": 1} if quick and is_network else {})


def measure(
    parts: Split, settings: Mapping[str, Mapping[str, Any]], seeds: range, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return a row per member and per combination, and the test of the best ones."""
    values: dict[str, dict[str, list[Any]]] = {}
    weights: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    for seed in seeds:
        trained: Hybrid | None = None
        for name, method in METHODS.items():
            started = time.perf_counter()
            model = _combine(name, method, parts, settings, seed, trained)
            seconds.setdefault(name, []).append(time.perf_counter() - started)
            trained = trained or model
            weights.setdefault(name, []).append(model.weights_M.tolist())
            _record(values, name, model, parts)
            log(f"seed {seed}, {name}: {_describe(values[name])}")
        assert trained is not None
        for key, member in zip(settings, trained.members, strict=True):
            _record(values, key, member, parts)
            log(f"seed {seed}, {key}: {_describe(values[key])}")
    rows = {name: _summarize(found) for name, found in values.items()}
    best = {
        kind: max(names, key=lambda name: rows[name]["valid"]["ndcg@10"])
        for kind, names in (("member", settings), ("combination", METHODS))
    }
    first, second = values[best["combination"]], values[best["member"]]
    tests = {metric: asdict(compare_pair(_mean(first, metric), _mean(second, metric))) for metric in METRICS}
    return {
        "members": list(settings),
        "seeds": list(seeds),
        "settings": {key: {name: str(one) for name, one in own.items()} for key, own in settings.items()},
        "rows": rows,
        "weights": weights,
        "seconds": {name: float(np.mean(found)) for name, found in seconds.items()},
        "best": best,
        "tests": tests,
    }


def _combine(
    name: str,
    method: Mapping[str, Any],
    parts: Split,
    settings: Mapping[str, Mapping[str, Any]],
    seed: int,
    trained: Hybrid | None,
) -> Hybrid:
    """Train a combination, or combine the members of one that is trained; stacking trains its members twice."""
    config = {"members": tuple(settings), "settings": dict(settings), **method}
    if "equal" in name:
        config["weights"] = (1.0,) * len(settings)
    validate = make_validator(parts.valid)
    if trained is None or method.get("method") == "stacked":
        model = train("hybrid", config, Training(), parts.train, Run(seed), validate)
        assert isinstance(model, Hybrid)
        return model
    model = Hybrid(Hybrid.Config(**config), trained.schema)
    model.members, model.item_events_I = trained.members, trained.item_events_I
    model.choose(validate)
    return model


def _record(values: dict[str, dict[str, list[Any]]], name: str, model: Any, parts: Split) -> None:
    for part, held_out in (("valid", parts.valid), ("test", parts.test)):
        found = evaluate(model, held_out, metrics=METRICS)
        values.setdefault(name, {}).setdefault(part, []).append({metric: found.values[metric] for metric in METRICS})


def _mean(found: Mapping[str, list[Any]], metric: str, part: str = "test") -> NDArray[np.float64]:
    """Return the mean over the seeds of each query."""
    mean_N: NDArray[np.float64] = np.mean([one[metric] for one in found[part]], axis=0)
    return mean_N


def _describe(found: Mapping[str, list[Any]]) -> str:
    return ", ".join(f"{part} {float(found[part][-1]['ndcg@10'].mean()):.4f}" for part in ("valid", "test"))


def _summarize(found: Mapping[str, list[Any]]) -> dict[str, Any]:
    estimates = estimate_values({metric: _mean(found, metric) for metric in METRICS}, 0)
    return {
        "valid": {metric: float(_mean(found, metric, "valid").mean()) for metric in METRICS},
        "test": {metric: asdict(one) for metric, one in estimates.items()},
        "by_seed": {metric: [float(one[metric].mean()) for one in found["test"]] for metric in METRICS},
    }


def page(found: Mapping[str, Any]) -> str:
    """Format the tables."""
    best, members = found["best"], ", ".join(f"`{key}`" for key in found["members"])
    lines = [f"# Combinations of models: {found['source']}", ""]
    lines += [
        f"Members: {members}, with their recipes for the data ({len(found['seeds'])} seeds).",
        f"Leave-one-out, {found['queries']:,} queries, whole catalog, seen items removed, query time not used.",
        "Weights are chosen on validation. Brackets: 95 % interval over users, of the mean over the seeds.",
        "",
    ]
    lines += ["| model | validation NDCG@10 | HR@10 | NDCG@10 | NDCG@10 by seed | weights, first seed |"]
    lines += ["| --- | ---: | ---: | ---: | --- | --- |"]
    for name, row in sorted(found["rows"].items(), key=lambda pair: -pair[1]["valid"]["ndcg@10"]):
        cells = [
            f"{row['test'][metric]['mean']:.4f} [{row['test'][metric]['low']:.4f}, {row['test'][metric]['high']:.4f}]"
            for metric in METRICS
        ]
        by_seed = ", ".join(f"{value:.4f}" for value in row["by_seed"]["ndcg@10"])
        weights = "" if name in found["members"] or name == "stacked" else _format_weights(found, name)
        lines.append(f"| {name} | {row['valid']['ndcg@10']:.4f} | {' | '.join(cells)} | {by_seed} | {weights} |")
    lines += ["", f"Best on validation: combination `{best['combination']}`, member `{best['member']}`.", ""]
    for metric, test in found["tests"].items():
        lines.append(
            f"- {metric} of {best['combination']} minus {best['member']}: {test['difference']:+.4f} "
            f"[{test['low']:+.4f}, {test['high']:+.4f}], p = {test['p']:.4f} (paired randomization test)"
        )
    lines += [
        "",
        *(f"- {text}" for text in found["warnings"]),
        *(describe_lines(found["machine"]) if "machine" in found else []),
        "",
    ]
    return "\n".join(lines)


def _format_weights(found: Mapping[str, Any], name: str) -> str:
    weights = found["weights"][name][0]
    return ", ".join(f"{key} {weight:.2f}" for key, weight in zip(found["members"], weights, strict=True))
