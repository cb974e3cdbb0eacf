"""Combinations of models compared with their best member.

The members are trained once for each seed, as ordinary runs, which are reused if they are finished and resumed if they
were interrupted; models without randomness are trained once. Then they are combined in several ways, with weights that
are chosen on validation. The best member and the best combination are those that are best on validation, mean over the
seeds. Only these two are compared in a test, per user, on values that are means over the seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import describe_lines
from benchmarks.stronger_baselines import baseline_lines
from segue.core import bundle
from segue.core.files import read_json
from segue.core.model import Model, Solver
from segue.core.registry import model_class
from segue.core.types import Codes, Dataset, HeldOut, Queries, Scores, Split
from segue.data.splits import split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import make_validator
from segue.evaluation.metrics import hit_rate, ndcg
from segue.evaluation.ranking import rank
from segue.evaluation.significance import compare_pair
from segue.experiment.compare_runs import ensure_run
from segue.experiment.data import load_data
from segue.experiment.paths import recipes_folder
from segue.experiment.plan import Plan, make_plan
from segue.experiment.run_folder import METRICS as RUN_RECORD
from segue.models.hybrid.hybrid import Hybrid

__all__ = ["MEMBERS", "METHODS", "Member", "measure", "page", "run"]


@dataclass(frozen=True)
class Member:
    """How a member is trained."""

    settings: tuple[str, ...] = ()
    """Settings that differ from its recipe, or from its defaults without one."""
    recipe: str | None = None
    """Recipe of another board; ``None``: that of the data, if there is one."""


SHORT = ("training.epochs=12",)
"""About half of the training of the recipe: the member need not be the best one."""
SHORTEST = ("training.epochs=6",)
"""For two networks on the largest log, which would take an hour each per seed with all epochs."""
NEIGHBORS = Member(recipe="ml-1m/item_knn.toml")
ML_100K = {"sasrec": Member(), "xlstm": Member(), "ease": Member(), "item_knn": NEIGHBORS}
MEMBERS: dict[str, dict[str, Member]] = {
    "ml-1m-sasrec": {
        "xlstm": Member(),
        "sasrec": Member(SHORT, "ml-1m/sasrec.toml"),
        "item_knn": NEIGHBORS,
        "ease": Member(),
    },
    "ml-1m": {"xlstm": Member(SHORTEST), "sasrec": Member(SHORTEST), "item_knn": Member(), "ease": Member()},
    "amazon-beauty": {"sasrec": Member(), "item_knn": Member(("model.half_life=1",)), "ease": Member()},
}
"""By source; others have those of MovieLens 100K. ``half_life`` was chosen on validation."""

METHODS: dict[str, dict[str, Any]] = {
    "weighted": {},
    "weighted, equal weights": {"weights": "equal"},
    "rrf": {"method": "rrf"},
    "rrf, equal weights": {"method": "rrf", "weights": "equal"},
    "switching by history": {"method": "switching", "switch_by": "history"},
    "switching by item": {"method": "switching", "switch_by": "item"},
    "stacked": {"method": "stacked"},
}
"""Settings by the name of the row. Two members switch: the one that is best on validation, and the best for few events
among the others."""

METRICS = {"hit_rate@10": hit_rate, "ndcg@10": ndcg}

AIMS = {"ml-1m-sasrec": (0.335, 0.200)}
"""HR@10 and NDCG@10 that were aimed at, by source."""

NOTES = {
    "ml-1m": "**The networks are trained for six epochs only**, of the 20 of their recipes. A gain over networks of "
    "six epochs need not hold for networks that are trained in full: `xlstm` alone then has an NDCG@10 of 0.1965 (one "
    "seed, [page of the board](ml-1m.md)), above every row of this page.",
    "ml-1m-sasrec": "An earlier run, in which `stacked` had an error (0.1019 on validation), read the test part with "
    "seed 0, too.",
}
"""What a page states first, by source."""

MAX_QUERIES = 6_000
"""Validation queries on which weights are chosen."""

BLOCK = 1_000
"""Queries that are ranked by all models before the next ones."""


class SharedScores:
    """A trained member whose scores are computed once for all combinations.

    Scores of the queries since the last :meth:`clear` are kept.
    """

    def __init__(self, member: Model) -> None:
        self.member = member
        self.schema = member.schema
        self._scores: dict[int, tuple[Queries, Scores]] = {}

    def clear(self) -> None:
        """Forget the scores."""
        self._scores = {}

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """Return the scores of the whole catalog, ``(N, I)``."""
        assert candidates is None, "combinations score the whole catalog"
        history = queries.history
        key = hash((queries.users.tobytes(), history.offsets.tobytes(), history.items.tobytes()))
        if key not in self._scores:
            self._scores[key] = queries, self.member.score(queries)
        return self._scores[key][1]


def run(source: str | None, models: str | None, seeds: int, log: Callable[[str], None], quick: bool) -> dict[str, Any]:
    """Train the members with several seeds and combine them.

    Args:
        source: default: MovieLens 100K; with ``quick`` a small simulated log.
        models: the members, separated by commas.
    """
    source = source or ("simulated?users=150&items=60&seed=1" if quick else "ml-100k")
    known = MEMBERS.get(source, ML_100K)
    chosen = {key: known.get(key, Member()) for key in (models.split(",") if models else known)}
    plans = {seed: make_plans(source, chosen, seed, quick) for seed in range(1 if quick else seeds)}
    plan = next(iter(plans[0].values()))
    data = load_data(plan)
    parts = split(data, plan.split)
    folders = {seed: {key: ensure_run(one, log) for key, one in own.items()} for seed, own in plans.items()}
    found = measure(
        parts, lambda seed: {k: bundle.load(f / "bundle").model for k, f in folders[seed].items()}, plans, log
    )
    runs = sorted({folder for own in folders.values() for folder in own.values()})
    return {
        "source": source,
        "settings": {key: [one.recipe, *one.settings] for key, one in chosen.items()},
        "recipes": {key: one.task.recipe for key, one in plans[0].items()},
        "train_seconds": _train_seconds(folders),
        "data_hash": data.header.get("hash"),
        "queries": len(parts.test),
        "warnings": list(data.header.get("warnings", ())),
        "runs": [folder.name for folder in runs],
        **found,
    }


def make_plans(source: str, members: Mapping[str, Member], seed: int, quick: bool = False) -> dict[str, Plan]:
    """Resolve the settings of the members; those without randomness have seed 0."""
    plans = {}
    for key, member in members.items():
        is_network = not issubclass(model_class(key), Solver)
        recipe = None if member.recipe is None else recipes_folder() / member.recipe
        overrides = [*member.settings, f"run.seed={seed if is_network else 0}"]
        plan = make_plan({"model": key, "data": source}, overrides, recipe)
        if quick and is_network:
            plan = replace(plan, training=plan.training.model_copy(update={"epochs": 1}))
        plans[key] = plan
    return plans


def _train_seconds(folders: Mapping[int, Mapping[str, Path]]) -> dict[str, float]:
    """Return the mean time of a training of each member."""
    seconds: dict[str, list[float]] = {}
    for own in folders.values():
        for key, folder in own.items():
            seconds.setdefault(key, []).append(read_json(folder / RUN_RECORD)["cost"]["seconds"]["train"])
    return {key: float(np.mean(values)) for key, values in seconds.items()}


def measure(
    parts: Split,
    load_members: Callable[[int], Mapping[str, Model]],
    seeds: Sequence[int] | Mapping[int, Any],
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Return a row per member and per combination, and the test of the best ones.

    Args:
        load_members: returns the trained members of a seed by key.
    """
    values: dict[str, dict[str, list[Any]]] = {}
    weights: dict[str, list[dict[str, float]]] = {}
    names: list[str] = []
    started = time.process_time()
    for seed in seeds:
        members = {key: SharedScores(member) for key, member in load_members(seed).items()}
        names = list(members)
        combinations = combine(members, parts, log)
        for key in combinations:
            weights.setdefault(key, []).append(_weights(combinations[key]))
        models = {**members, **combinations}
        for part, held_out in (("valid", parts.valid), ("test", parts.test)):
            for key, own in rank_all(models, members, held_out).items():
                values.setdefault(key, {}).setdefault(part, []).append(own)
        for key in models:
            log(f"seed {seed}, {key}: {_describe(values[key])}")
    rows = {key: _summarize(found) for key, found in values.items()}
    best = {
        kind: max(keys, key=lambda key: rows[key]["valid"]["ndcg@10"])
        for kind, keys in (("member", names), ("combination", [key for key in rows if key not in names]))
    }
    first, second = values[best["combination"]], values[best["member"]]
    tests = {metric: asdict(compare_pair(_mean(first, metric), _mean(second, metric))) for metric in METRICS}
    return {
        "members": names,
        "seeds": list(seeds),
        "rows": rows,
        "weights": weights,
        "cpu_seconds": (time.process_time() - started) / len(list(seeds)),
        "best": best,
        "tests": tests,
    }


def combine(members: Mapping[str, Any], parts: Split, log: Callable[[str], None]) -> dict[str, Hybrid]:
    """Return the combinations of trained members, with weights chosen on validation, by the names of METHODS."""
    valid = _sample(parts.valid, MAX_QUERIES)
    validate = make_validator(valid)
    single = {key: validate(member)["ndcg@10"] for key, member in members.items()}
    best, *others = sorted(single, key=lambda key: -single[key])
    combinations: dict[str, Hybrid] = {}
    for name, method in METHODS.items():
        if not others:
            break
        if method.get("method") != "switching":
            combinations[name] = _combine(method, list(members), members, parts.train, validate)
        else:
            pairs = [_combine(method, [best, other], members, parts.train, validate) for other in others]
            combinations[name] = max(pairs, key=lambda pair: validate(pair)["ndcg@10"])
        log(f"{name}: {_weights(combinations[name])}")
    for member in members.values():
        member.clear()
    return combinations


def _combine(
    method: Mapping[str, Any], keys: Sequence[str], members: Mapping[str, Any], train: Dataset, validate: Any
) -> Hybrid:
    config = {"members": tuple(keys), **method}
    if config.get("weights") == "equal":
        config["weights"] = (1.0,) * len(keys)
    model = Hybrid(Hybrid.Config(**config), train.schema)
    model.use_members([members[key] for key in keys], train)
    model.choose(validate)
    return model


def _sample(held_out: HeldOut, size: int) -> HeldOut:
    """Return at most ``size`` queries, drawn at random."""
    if len(held_out) <= size:
        return held_out
    rows = np.sort(np.random.default_rng(0).permutation(len(held_out))[:size])
    return replace(held_out, queries=held_out.queries.take(rows), targets=held_out.targets.take(rows))


def rank_all(
    models: Mapping[str, Any], members: Mapping[str, SharedScores], held_out: HeldOut
) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the metrics of each query by model; a block of queries is ranked by all models before the next."""
    found: dict[str, dict[str, list[Any]]] = {name: {metric: [] for metric in METRICS} for name in models}
    for start in range(0, len(held_out), BLOCK):
        stop = start + BLOCK
        queries, targets = held_out.queries.rows_between(start, stop), held_out.targets.rows_between(start, stop)
        block = replace(held_out, queries=queries, targets=targets)
        for name, model in models.items():
            ranks = rank(model, block, k=0)
            for metric, function in METRICS.items():
                found[name][metric].append(function(ranks, 10))
        for member in members.values():
            member.clear()
    return {name: {metric: np.concatenate(parts) for metric, parts in own.items()} for name, own in found.items()}


def _weights(model: Hybrid) -> dict[str, float]:
    """Return what was chosen on validation, for the table."""
    keys, config = model.config.members, model.config
    if config.method == "switching":
        return {keys[0]: float(model.switch_at), keys[1]: 0.0}
    if config.method == "stacked":
        return {}
    return {key: float(weight) for key, weight in zip(keys, model.weights_M, strict=True)}


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
    seeds = f"{len(found['seeds'])} seed{'s' if len(found['seeds']) > 1 else ''}"
    lines += [
        f"Members: {members}; {seeds}. Leave-one-out, {found['queries']:,} queries, whole "
        "catalog, seen items removed, query time not used. Weights, thresholds and coefficients were chosen on "
        "validation. Brackets: 95 % interval over users, of the mean over the seeds.",
        "",
        "Values of combinations on validation are optimistic, as their weights and coefficients were chosen on the "
        "same queries. The two rows that are compared were chosen by these values; that does not affect the test part. "
        "Both metrics are tested, without a correction for their number.",
        "",
        *([NOTES[found["source"]], ""] if found["source"] in NOTES else []),
        *baseline_lines(f"hybrid-{found['source']}"),
        "```sh",
        f"python -m benchmarks hybrid --source {found['source']}"
        + (f" --seeds {len(found['seeds'])}" if len(found["seeds"]) != 3 else ""),
        "```",
        "",
    ]
    lines += ["| model | validation NDCG@10 | HR@10 | NDCG@10 | NDCG@10 by seed | chosen, first seed |"]
    lines += ["| --- | ---: | ---: | ---: | --- | --- |"]
    for name, row in sorted(found["rows"].items(), key=lambda pair: -pair[1]["valid"]["ndcg@10"]):
        cells = [
            f"{row['test'][metric]['mean']:.4f} [{row['test'][metric]['low']:.4f}, {row['test'][metric]['high']:.4f}]"
            for metric in METRICS
        ]
        by_seed = ", ".join(f"{value:.4f}" for value in row["by_seed"]["ndcg@10"])
        weights = "" if name in found["members"] else _format_weights(found, name)
        lines.append(f"| {name} | {row['valid']['ndcg@10']:.4f} | {' | '.join(cells)} | {by_seed} | {weights} |")
    lines += ["", f"Best on validation: combination `{best['combination']}`, member `{best['member']}`.", ""]
    for metric, test in found["tests"].items():
        lines.append(
            f"- {metric} of {best['combination']} minus {best['member']}: {test['difference']:+.4f} "
            f"[{test['low']:+.4f}, {test['high']:+.4f}], p = {test['p']:.4f} (paired randomization test)"
        )
    if aims := AIMS.get(found["source"]):
        means = [found["rows"][best["combination"]]["test"][metric]["mean"] for metric in METRICS]
        is_reached = all(mean >= aim for mean, aim in zip(means, aims, strict=True))
        lines.append(
            f"- The aim was {aims[0]:.3f} / {aims[1]:.3f} (HR@10 / NDCG@10): {'' if is_reached else 'not '}reached by "
            f"`{best['combination']}` with {means[0]:.4f} / {means[1]:.4f}"
        )
    lines += [
        "",
        *_training_lines(found),
        *(f"* warning: {text}" for text in found["warnings"]),
        *(describe_lines(found["machine"]) if "machine" in found else []),
        "",
    ]
    return "\n".join(lines)


def _training_lines(found: Mapping[str, Any]) -> list[str]:
    """State how the members were trained."""
    if "runs" not in found:
        return []
    lines = []
    for key, (other, *changes) in found["settings"].items():
        recipe = f"recipes/{other}" if other else found["recipes"][key] or "none (defaults)"
        text = f"* {key}: recipe {recipe}{', ' if changes else ''}{', '.join(f'`{one}`' for one in changes)}; "
        lines.append(f"{text}{found['train_seconds'][key] / 60:.1f} min per training")
    return [
        *lines,
        "* readings of the test part by the run of this page: one of each member and combination per seed, after all "
        "choices were made",
        "* times of training are upper bounds, because other programs ran meanwhile",
        f"* data hash {found['data_hash']}",
    ]


def _format_weights(found: Mapping[str, Any], name: str) -> str:
    weights = found["weights"][name][0]
    if name.startswith("switching"):
        (first, threshold), (second, _) = weights.items()
        return f"{first} from {threshold:.0f} events, else {second}"
    return ", ".join(f"{key} {weight:.3f}" for key, weight in weights.items())
