"""Context on and off: the same sequential model with and without context inputs, on the same queries.

Frappe has eight context columns of each use of an app, and the query has the context in which the target was used, as
in the published work on the log. MovieLens 100K has real times: the model reads the calendar, the gaps and the time of
the query. The ablation leaves out one column of the query's context; times are also read one by one.

Learning rate and dropout are chosen on validation with one seed, once for the model without context and once for the
row with all inputs; the latter are the settings of every row with inputs. The best epoch of each run is chosen on
validation too. Each variant is trained with every seed; values per user are means over the seeds before intervals and
paired tests. Simple baselines, with settings chosen on validation, show how strong the model without context is.
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
from benchmarks.table_rows import difference_cells, row_line
from segue.core.run import Run
from segue.core.types import Codes, Dataset, Queries, Scores, Split
from segue.data import load
from segue.data.sources.frappe import CONTEXT
from segue.data.splits import SplitSettings, split
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.evaluate import evaluate, make_validator
from segue.evaluation.significance import compare_all
from segue.models.baselines.popular import Popular
from segue.reports.quantities import format_duration, metric_label
from segue.training.settings import Training
from segue.training.train import train

__all__ = ["STUDIES", "Study", "compare", "measure", "page", "planted_log", "run"]

MODEL = "gru4rec"
MODEL_SETTINGS = {"windows": "all", "max_length": 50}
TRAINING = Training(epochs=10, patience=4, batch_size=32, schedule="cosine", warmup=1.0)
CANDIDATES = (
    {"learning_rate": 2e-3, "dropout": 0.2},
    {"learning_rate": 4e-3, "dropout": 0.2},
    {"learning_rate": 4e-3, "dropout": 0.5},
)
OWN = "own frequency"
SIMPLE: dict[str, tuple[dict[str, float], ...]] = {
    "popular": ({},),
    OWN: ({},),
    "item_knn": ({}, {"half_life": 1.0}, {"half_life": 3.0}, {"half_life": 10.0}),
    "ease": ({"l2": 50.0}, {"l2": 200.0}, {"l2": 500.0}, {"l2": 2000.0}),
}
"""Settings to choose from, by simple baseline; ``{}``: the defaults. :data:`OWN` only where seen items are ranked."""
METRICS = ("hit_rate@10", "ndcg@10")
CHOICE = "ndcg@10"
"""Metric of validation that chooses settings and epochs."""
NO_CONTEXT = "no context"
CALENDAR = ("hour", "weekday", "month", "season")
REAL_TIMES = ("gap", "query_time", *CALENDAR, *(f"query_{name}" for name in CALENDAR))

Variants = dict[str, tuple[str, ...]]
"""Inputs by the name of the row."""


class OwnFrequency(Popular):
    """Score items by how often the user has used them; popularity breaks ties."""

    def score(self, queries: Queries, candidates: Codes | None = None) -> Scores:
        """See :meth:`segue.core.model.Model.score`."""
        counts_NI = queries.history.csr(self.schema.n_items).toarray()
        scores_NI: Scores = (counts_NI * STEP + self.log_popularity_I).astype(np.float32)
        return scores_NI if candidates is None else np.take_along_axis(scores_NI, candidates, axis=1)


STEP = 50.0
"""Score of a further use of an item, more than any difference in log-popularity."""


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
    data: Dataset, study: Study, seeds: int, log: Callable[[str], None], epochs: int = TRAINING.epochs
) -> dict[str, Any]:
    """Choose the settings on validation, then train and evaluate every row with every seed."""
    parts = split(data, study.split)
    training = TRAINING.model_copy(update={"epochs": epochs})
    grids = {
        name: [(one, _validate(parts, study, training, study.variants[name], one)) for one in CANDIDATES]
        for name in (NO_CONTEXT, study.full)
    }
    grids |= {
        name: [(one, _validate_simple(parts, study, name, one)) for one in found]
        for name, found in SIMPLE.items()
        if name != OWN or not study.exclude_seen
    }
    chosen = {name: max(found, key=lambda one: one[1])[0] for name, found in grids.items()}
    log(f"{study.title}, chosen on validation: {chosen}")
    values: dict[str, list[Mapping[str, NDArray[np.float64]]]] = {
        name: [] for name in dict.fromkeys([*study.variants, *grids])
    }
    seconds: dict[str, list[float]] = {name: [] for name in values}
    for seed in range(seeds):
        for name in values:
            if name in SIMPLE and seed:
                continue
            started = time.process_time()
            if name in SIMPLE:
                model = _train_simple(parts, name, chosen[name])
            else:
                own = chosen[NO_CONTEXT if name == NO_CONTEXT else study.full]
                model = _train(parts, study, training, study.variants[name], own, seed)
            seconds[name].append(time.process_time() - started)
            found = evaluate(model, parts.test, ks=(10,), metrics=METRICS, exclude_seen=study.exclude_seen).values
            values[name].append({metric: found[metric] for metric in METRICS})
            log(f"{study.title}, seed {seed}, {name}: {CHOICE} {np.nanmean(found[CHOICE]):.4f}")
    return {
        "title": study.title,
        "protocol": study.protocol,
        "full": study.full,
        "seeds": seeds,
        "queries": len(parts.test),
        "settings": _model_settings(study) | TRAINING.model_dump(include=TRAINING.model_fields_set),
        "chosen": chosen,
        "grids": grids,
        "data_hash": data.header.get("hash"),
        "warnings": list(data.header.get("warnings", ())),
        "seconds": {name: float(np.mean(found)) for name, found in seconds.items()},
        **compare(values, study.full, study.without),
    }


def _model_settings(study: Study) -> dict[str, Any]:
    """Return the settings that all rows share; seen items are no negatives where they are not ranked."""
    return {**MODEL_SETTINGS, "mask_seen": study.exclude_seen}


def _validate(
    parts: Split, study: Study, training: Training, inputs: Sequence[str], settings: Mapping[str, float]
) -> float:
    model = _train(parts, study, training, inputs, settings, 0)
    return float(make_validator(parts.valid, CHOICE, study.exclude_seen)(model)[CHOICE])


def _validate_simple(parts: Split, study: Study, name: str, settings: Mapping[str, float]) -> float:
    model = _train_simple(parts, name, settings)
    return float(make_validator(parts.valid, CHOICE, study.exclude_seen)(model)[CHOICE])


def _train_simple(parts: Split, name: str, settings: Mapping[str, float]) -> Any:
    if name != OWN:
        return train(name, settings, Training(), parts.train, Run(0))
    popular: Any = train("popular", {}, Training(), parts.train, Run(0))
    model = OwnFrequency(popular.config, popular.schema)
    model.log_popularity_I = popular.log_popularity_I
    return model


def _train(
    parts: Split, study: Study, training: Training, inputs: Sequence[str], settings: Mapping[str, float], seed: int
) -> Any:
    config = {**_model_settings(study), "inputs": tuple(inputs), "dropout": settings["dropout"]}
    training = training.model_copy(update={"learning_rate": settings["learning_rate"]})
    return train(
        MODEL, config, training, parts.train, Run(seed), make_validator(parts.valid, CHOICE, study.exclude_seen)
    )


def compare(
    values: Mapping[str, Sequence[Mapping[str, NDArray[np.float64]]]], full: str, without: Sequence[str]
) -> dict[str, Any]:
    """Return means, and paired tests against no context, and of left-out columns against all.

    Rows with context and simple baselines are two families of tests against no context.
    Holm's correction is over the tests of one metric and family.
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
    simple = [name for name in values if name in SIMPLE]
    families = [(NO_CONTEXT, [name for name in values if name not in (*without, *simple)])]
    families += [(NO_CONTEXT, [NO_CONTEXT, *simple])] if simple else []
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


def _grid_text(grid: Sequence[tuple[Mapping[str, float], float]]) -> str:
    """Format settings with their value on validation, the first of the best in bold."""
    best = max(range(len(grid)), key=lambda index: grid[index][1])
    texts = []
    for index, (settings, value) in enumerate(grid):
        text = f"{value:.4f}"
        named = ", ".join(f"{name} {one:g}" for name, one in settings.items()) or "defaults"
        texts.append(f"{named}: {f'**{text}**' if index == best else text}")
    return "; ".join(texts)


def _strength_lines(study: Mapping[str, Any]) -> list[str]:
    """Compare the model without context with the best simple baseline, in every metric."""
    rows = study["rows"]
    best = max((name for name in SIMPLE if name in rows), key=lambda name: rows[name][CHOICE]["mean"])
    texts = []
    for metric in (CHOICE, *(metric for metric in METRICS if metric != CHOICE)):
        test = next(one for one in study["tests"] if (one["first"], one["metric"]) == (best, metric))
        outcome = "no significant difference"
        if test["significant"]:
            outcome = f"`{NO_CONTEXT}` is {'above' if test['difference'] < 0 else 'below'} it"
        means = [f"{rows[name][metric]['mean']:.4f}" for name in (best, NO_CONTEXT)]
        texts.append(f"{metric_label(metric)} {means[0]}, `{NO_CONTEXT}` {means[1]}: {outcome}")
    return [
        f"The strongest simple baseline on the test part is `{best}`: {'; '.join(texts)}. Effects of context on a "
        "model that is not above simple baselines say little.",
        "",
    ]


def _short_training_lines(study: Mapping[str, Any]) -> list[str]:
    """Say which choices are the highest learning rate that was tried."""
    highest = max(one["learning_rate"] for one in CANDIDATES)
    names = [
        f"`{name}`" for name in (NO_CONTEXT, study["full"]) if study["chosen"][name].get("learning_rate") == highest
    ]
    if not names:
        return []
    return [
        f"For {' and '.join(names)} validation chose the highest learning rate that was tried, {highest:g}: more "
        "epochs or higher rates may be better, and a difference between rows may be one of speed of training.",
        "",
    ]


def _study_lines(study: Mapping[str, Any]) -> list[str]:
    shared = ", ".join(f"`{name}={value}`" for name, value in study["settings"].items())
    left_out = any(name.startswith(f"{study['full']}, without ") for name in study["rows"])
    lines = [
        f"## {study['title']}",
        "",
        f"{study['protocol']} {study['queries']:,} queries, {study['seeds']} seed(s); values are means over the seeds, "
        "with 95 % intervals over users. Simple baselines have no randomness and are trained once.",
        "",
        f"All rows of `{MODEL}` have {shared} and the best epoch of validation. Learning rate and dropout were chosen "
        f"on validation with seed 0, for `{NO_CONTEXT}` and for `{study['full']}`; the other rows have the settings of "
        f"`{study['full']}`. Validation {metric_label(CHOICE)} of each choice, the highest in bold:",
        "",
        *(f"* {name}: {_grid_text(found)}" for name, found in study["grids"].items()),
        "",
        *_short_training_lines(study),
        *_strength_lines(study),
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
        "Paired randomization tests over users; Holm's correction over the tests of one metric of: rows with inputs "
        f"and `{NO_CONTEXT}`; simple baselines and `{NO_CONTEXT}`"
        + (f"; rows that leave a column out and `{study['full']}`." if left_out else "."),
        "",
        "| metric | pair | difference | 95 % | p (Holm) | |",
        "| --- | --- | ---: | --- | ---: | --- |",
    ]
    for test in study["tests"]:
        verdict = "significant" if test["significant"] else ""
        lines.append(row_line([metric_label(test["metric"]), *difference_cells(test), verdict]))
    warnings = [f"* warning: {text}" for text in study["warnings"]]
    readings = (
        "readings of the test part: one of each row and seed by the run of this page, after all choices were made"
    )
    return [*lines, "", f"* {readings}", f"* data hash {study['data_hash']}", *warnings, ""]
