"""Context on and off: the same sequential model with and without context inputs, on the same queries.

Frappe has eight context columns of each use of an app, and the query has the context in which the target was used, as
in the published work on the log. MovieLens 100K has real times: the model reads the calendar, the gaps and the time of
the query. The ablation leaves out one column of the query's context; times are also read one by one.

Learning rate and dropout are chosen on validation, for the model without context, with one seed. The best epoch of
each run is chosen on validation too. Each variant is trained with every seed; values per user are means over the seeds
before intervals and paired tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from benchmarks.machine import describe_lines
from segue.core.run import Run
from segue.core.types import Dataset, Split
from segue.data import load
from segue.data.sources.frappe import CONTEXT
from segue.data.splits import SplitSettings, split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import evaluate, make_validator
from segue.evaluation.significance import compare_all
from segue.reports.quantities import format_duration, metric_label
from segue.training.settings import Training
from segue.training.train import train

__all__ = ["STUDIES", "Study", "compare", "measure", "page", "planted_log", "run"]

MODEL = "gru4rec"
LEARNING_RATES, DROPOUTS = (1e-3, 3e-3), (0.2, 0.5)
EPOCHS, PATIENCE = 10, 2
METRICS = ("hit_rate@10", "ndcg@10")
NO_CONTEXT = "no context"
CALENDAR = ("hour", "weekday", "month", "season")
REAL_TIMES = ("gap", "query_time", *CALENDAR, *(f"query_{name}" for name in CALENDAR))

Variants = dict[str, tuple[str, ...]]
"""Inputs by the name of the row."""


@dataclass(frozen=True)
class Study:
    """Data, protocol and rows of one table."""

    title: str
    protocol: str
    full: str
    """Row from which single columns are left out."""
    variants: Variants
    split: SplitSettings
    exclude_seen: bool = True
    without: tuple[str, ...] = field(default=())
    """Rows that leave out one column of :attr:`full`; they are also compared with it."""


def _columns_of_query(columns: Sequence[str]) -> tuple[Variants, tuple[str, ...]]:
    """Return the rows of context columns, and the names of those that leave out one."""
    inputs = {name: f"query_context:{name}" for name in columns}
    without = {
        f"query, without {name}": tuple(one for column, one in inputs.items() if column != name) for name in columns
    }
    rows: Variants = {
        NO_CONTEXT: (),
        "events": ("context",),
        "query": ("query_context",),
        "events and query": ("context", "query_context"),
    }
    return {**rows, **without}, tuple(without)


def _rows_of_times() -> Variants:
    """Return the rows of inputs from times."""
    return {
        NO_CONTEXT: (),
        "gap": ("gap",),
        "calendar of events": CALENDAR,
        "gap and calendar of events": ("gap", *CALENDAR),
        "query_time": ("query_time",),
        "calendar of the query": tuple(f"query_{name}" for name in CALENDAR),
        "all": REAL_TIMES,
    }


def make_study(source: str, columns: Sequence[str] = CONTEXT) -> Study:
    """Return the study of a source: of its context columns, or of its times."""
    if source == "ml-100k":
        protocol = "Leave-one-out, whole catalog, seen items removed. The time of the query is that of the target."
        settings = SplitSettings(use_query_time=True)
        return Study("MovieLens 100K: real times", protocol, "all", _rows_of_times(), settings)
    variants, without = _columns_of_query(columns)
    title = "Frappe: context columns" if source == "frappe" else f"{source}: context columns"
    protocol = (
        "Leave-one-out, whole catalog; seen items are ranked too, because users use apps again. The context of the "
        "query is that of the target. The log has no times and its order is arbitrary: the last use is one use of "
        "each user."
    )
    return Study(title, protocol, "query", variants, SplitSettings(use_query_context=True), False, without)


STUDIES = ("frappe", "ml-100k")
"""Sources of the tables."""


def planted_log(users: int = 80, length: int = 12, seed: int = 0) -> pl.DataFrame:
    """Simulate a log with times in which the next item depends on one of two context columns."""
    rng = np.random.default_rng(seed)
    is_far = rng.random((users, length)) < 0.5
    items = (rng.integers(12, size=(users, 1)) + np.cumsum(np.where(is_far, 2, 1), axis=1)) % 12
    return pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(users), length),
            "item_id": items.ravel(),
            "timestamp": 1_600_000_000 + np.cumsum(rng.integers(1, 90_000, users * length)),
            "place": np.where(is_far.ravel(), "far", "near"),
            "noise": rng.choice(["p", "q"], users * length),
        }
    )


def run(options: Any) -> dict[str, Any]:
    """Measure both studies, or with ``--source`` one of them.

    Raises:
        ValueError: another source.
    """

    def log(text: str) -> None:
        from benchmarks.__main__ import log as write

        write(text)

    if options.source is not None and options.source not in STUDIES:
        raise ValueError(f"--source: got '{options.source}', expected {' or '.join(STUDIES)}")
    if options.quick:
        data = load(planted_log(), columns={"context": ["place", "noise"]})
        studies = [(data, make_study("simulated", ("place", "noise"))), (data, make_study("ml-100k"))]
        return {"studies": [measure(data, study, 1, log, epochs=1) for data, study in studies]}
    sources = [options.source] if options.source else STUDIES
    return {"studies": [measure(load(source, log=log), make_study(source), options.seeds, log) for source in sources]}


def measure(
    data: Dataset, study: Study, seeds: int, log: Callable[[str], None], epochs: int = EPOCHS
) -> dict[str, Any]:
    """Choose the settings on validation, then train and evaluate every row with every seed."""
    parts = split(data, study.split)
    chosen, grid = _choose(parts, study, epochs, log)
    values: dict[str, list[Mapping[str, NDArray[np.float64]]]] = {name: [] for name in study.variants}
    seconds: dict[str, list[float]] = {name: [] for name in study.variants}
    for seed in range(seeds):
        for name, inputs in study.variants.items():
            started = time.process_time()
            model = _train(parts, study, chosen, inputs, seed, epochs)
            seconds[name].append(time.process_time() - started)
            found = evaluate(model, parts.test, ks=(10,), metrics=METRICS, exclude_seen=study.exclude_seen).values
            values[name].append({metric: found[metric] for metric in METRICS})
            log(f"{study.title}, seed {seed}, {name}: {METRICS[1]} {np.nanmean(found[METRICS[1]]):.4f}")
    return {
        "title": study.title,
        "protocol": study.protocol,
        "full": study.full,
        "seeds": seeds,
        "queries": len(parts.test),
        "chosen": chosen,
        "grid": grid,
        "epochs": [epochs, PATIENCE],
        "data_hash": data.header.get("hash"),
        "warnings": list(data.header.get("warnings", ())),
        "seconds": {name: float(np.mean(found)) for name, found in seconds.items()},
        **compare(values, study.full, study.without),
    }


def _choose(
    parts: Split, study: Study, epochs: int, log: Callable[[str], None]
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the learning rate and dropout with the best validation, and all that were tried."""
    validate = make_validator(parts.valid, METRICS[1], study.exclude_seen)
    grid = []
    for rate, dropout in product(LEARNING_RATES, DROPOUTS):
        settings = {"learning_rate": rate, "dropout": dropout}
        value = validate(_train(parts, study, settings, (), 0, epochs))[METRICS[1]]
        log(f"{study.title}, validation of {settings}: {METRICS[1]} {value:.4f}")
        grid.append({**settings, METRICS[1]: float(value)})
    best = max(grid, key=lambda one: one[METRICS[1]])
    return {name: best[name] for name in ("learning_rate", "dropout")}, grid


def _train(
    parts: Split, study: Study, settings: Mapping[str, float], inputs: Sequence[str], seed: int, epochs: int
) -> Any:
    validate = make_validator(parts.valid, METRICS[1], study.exclude_seen)
    training = Training(epochs=epochs, patience=PATIENCE, learning_rate=settings["learning_rate"])
    config = {"inputs": tuple(inputs), "dropout": settings["dropout"]}
    return train(MODEL, config, training, parts.train, Run(seed), validate)


def compare(
    values: Mapping[str, Sequence[Mapping[str, NDArray[np.float64]]]], full: str, without: Sequence[str]
) -> dict[str, Any]:
    """Return means, and paired tests of the rows against no context and of left-out columns against all.

    Holm's correction is over the tests of one metric and baseline.
    """
    pooled = {
        name: {metric: np.mean([one[metric] for one in found], axis=0) for metric in METRICS}
        for name, found in values.items()
    }
    rows = {
        name: {
            metric: {**asdict(estimate), "seeds": [float(np.nanmean(one[metric])) for one in values[name]]}
            for metric, estimate in estimate_values(pooled[name], 0).items()
        }
        for name in values
    }
    tests = []
    families = [(NO_CONTEXT, [name for name in values if name not in without])]
    families += [(full, [full, *without])] if without else []
    for (baseline, names), metric in product(families, METRICS):
        found = compare_all({name: pooled[name][metric] for name in names}, baseline=baseline)
        tests += [{"metric": metric, "significant": test.significant, **asdict(test)} for test in found]
    return {"rows": rows, "tests": tests}


def page(found: Mapping[str, Any]) -> str:
    """Format a table of the rows and one of the tests for each study."""
    lines = [
        "# Context on and off",
        "",
        f"The same model (`{MODEL}`) with and without [context inputs](../guide/inputs.md#context), on the same "
        "queries. A model that knows the context or the time of the query has more information than one that does not: "
        "these rows belong to another protocol, and are compared here to measure what that information is worth.",
        "",
    ]
    for study in found["studies"]:
        lines += _study_lines(study)
    return "\n".join([*lines, *describe_lines(found["machine"]), ""])


def _study_lines(study: Mapping[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value:g}" for name, value in study["chosen"].items())
    tried = "; ".join(
        f"{one['learning_rate']:g} and {one['dropout']:g}: {one[METRICS[1]]:.4f}" for one in study["grid"]
    )
    lines = [
        f"## {study['title']}",
        "",
        f"{study['protocol']} {study['queries']:,} queries, {study['seeds']} seed(s); values are means over the seeds, "
        "with 95 % intervals over users.",
        "",
        f"Chosen on validation, for the model without context and seed 0: {settings}. Tried (learning rate and "
        f"dropout: validation {metric_label(METRICS[1])}): {tried}. At most {study['epochs'][0]} epochs; the best "
        f"epoch of validation, patience {study['epochs'][1]}.",
        "",
        "| inputs | " + " | ".join(f"{metric_label(metric)} | 95 % | seeds" for metric in METRICS) + " | CPU time |",
        "| --- |" + " ---: | --- | --- |" * len(METRICS) + " ---: |",
    ]
    for name, row in study["rows"].items():
        cells = [name]
        for metric in METRICS:
            one = row[metric]
            cells += [f"{one['mean']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"]
            cells.append(", ".join(f"{value:.4f}" for value in one["seeds"]))
        lines.append(f"| {' | '.join(cells)} | {format_duration(study['seconds'][name])} |")
    lines += [
        "",
        "Paired randomization tests over users; Holm's correction over the tests of one metric and baseline.",
        "",
        "| metric | pair | difference | 95 % | p (Holm) | |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    for test in study["tests"]:
        pair, ends = f"{test['first']} − {test['second']}", f"{test['low']:+.4f} to {test['high']:+.4f}"
        verdict = "significant" if test["significant"] else ""
        lines.append(
            f"| {metric_label(test['metric'])} | {pair} | {test['difference']:+.4f} | {ends} | {test['p_holm']:.4f} | "
            f"{verdict} |"
        )
    warnings = [f"* warning: {text}" for text in study["warnings"]]
    return [*lines, "", f"* data hash {study['data_hash']}", *warnings, ""]
