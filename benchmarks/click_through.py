"""Click-through models on Frappe_x1, next to the published figures of its benchmark (openbenchmark/BARS).

The parts are given. Most settings are the published ones; the page says which are not, and what else was tried on
validation. Each model is trained with several seeds, and its best epoch is chosen on validation. A figure is the mean
over the seeds; its interval is over the examples of the test (AUC: DeLong; logarithmic loss: bootstrap).

Simple baselines: the popularity of the item; whether the pair of user and item occurs in training; both, pairs of
training first; and logistic regressions on counts and mean labels of the fields and of pairs of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
import psutil
import torch
from numpy.typing import NDArray

import segue
from benchmarks.finished import Finished, check_earlier, reuse
from benchmarks.machine import describe_lines
from benchmarks.verdicts import Verdict, compare_figures
from segue.core.examples.encoder import fit_encoder
from segue.core.examples.fields import Examples
from segue.core.examples.settings import ExampleSettings
from segue.core.run import Run
from segue.data.examples.splits import ExampleSplit
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.evaluation.auc_variance import mean_auc_estimate
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.click_metrics import auc
from segue.evaluation.evaluate_examples import example_losses
from segue.reports.quantities import format_duration
from segue.solvers.boosting.target_statistics import TargetStatistics

__all__ = ["COUNTS", "MODELS", "PUBLISHED", "TRIED", "baseline_scores", "page", "run", "train_on_counts"]

Predict = Callable[[pl.DataFrame], NDArray[Any]]

SOURCE = "frappe-x1"

DEEP: dict[str, Any] = {
    "embedding_dim": 10,
    "embedding_l2": 0.05,
    "hidden": [400, 400, 400],
    "dropout": 0.2,
    "schedule": "plateau",
    "lr_step_epochs": 1,
    "lr_step_factor": 0.1,
    "patience": 3,
    "epochs": 60,
    "min_count": 1,
}
"""Published settings of DeepFM; others differ from these."""

FIELDS = (
    *("user", "item", "daytime", "weekday", "isweekend"),
    *("homework", "cost", "weather", "country", "city"),
)

SINGLE = [[one] for one in FIELDS]
PAIRS = [list(pair) for pair in combinations(FIELDS, 2)]

COUNTS: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic_regression@user_item": ("logistic_regression", {"target_statistics": [*SINGLE, ["user", "item"]]}),
    "logistic_regression@pairs": ("logistic_regression", {"target_statistics": SINGLE + PAIRS}),
}
"""Simple baselines on counts by the name of the row, with the arguments of :func:`train_on_counts`."""

COUNTS_GRID = tuple(
    {"statistics_prior": prior, "l2_features": l2} for prior, l2 in ((1.0, 1.0), (1.0, 10.0), (10.0, 1.0))
)
"""Other arguments, of which the best ones by AUC on validation are used."""

STATISTICS_FOLDS = 10

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "logistic_regression": ("logistic_regression", {"min_count": 1}),
    "ctr_factorization_machine": (
        "ctr_factorization_machine",
        {name: value for name, value in DEEP.items() if name not in ("hidden", "dropout")}
        | {"embedding_l2": 1e-5, "learning_rate": 0.01},
    ),
    "wide_deep": ("wide_deep", DEEP),
    "deepfm": ("deepfm", DEEP),
    "dlrm": ("dlrm", DEEP | {"embedding_l2": 0.1, "dropout": 0.4}),
    "dcn_v2": ("dcn_v2", DEEP | {"dropout": 0.4, "num_crosses": 4}),
    "finalmlp": (
        "finalmlp",
        DEEP
        | {"hidden": [400], "hidden_2": [100], "dropout": 0.4, "gate_hidden": 400, "gate_fields": [["user"], ["item"]]},
    ),
    "finalnet": ("finalnet", DEEP | {"embedding_l2": 0.1, "hidden": [400, 400], "dropout": 0.1}),
    "gradient_boosting": ("gradient_boosting", {"min_count": 1}),
    "gradient_boosting@pairs": (
        "gradient_boosting",
        {
            "min_count": 1,
            "target_statistics": SINGLE + PAIRS,
            "learning_rate": 0.05,
            "column_fraction": 0.3,
            "row_fraction": 0.8,
            "iterations": 600,
            "patience": 10,
            "max_split_categories": 32,
            "category_l2": 10.0,
            "category_smoothing": 10.0,
            "min_category_examples": 100,
        },
    ),
}
"""Key and settings by the name of the row."""

TRIED: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "logistic_regression": ({"l2_features": 1.0}, {"l2_features": 3.0}, {"l2_features": 30.0}),
    "ctr_factorization_machine": (
        {"embedding_l2": 0.05, "learning_rate": 0.001},
        {"embedding_l2": 5e-6, "learning_rate": 0.001},
        {"learning_rate": 0.003},
    ),
    "finalmlp": ({"num_heads": 5},),
}
"""Other settings that are measured on validation with the first seed, as changes to those of the row."""

RECORDED: tuple[dict[str, Any], ...] = (
    {
        "row": "ctr_factorization_machine",
        "change": {"embedding_l2": 3e-5, "embedding_dim": 32},
        **{"auc": 0.9794, "log_loss": 0.1571},
    },
    {"row": "finalmlp", "change": {"ema": 0.99}, "auc": 0.9858, "log_loss": 0.1589},
    {"row": "finalmlp", "change": {"embedding_l2": 0.02}, "auc": 0.9860, "log_loss": 0.1745},
)
"""Figures of settings that were tried when those of the rows were chosen, and are not measured again."""

CHANGED: Mapping[str, str] = {
    "logistic_regression": "Newton's method and the default `l2_features=10`; published: Adam, regularizer 1e-5",
    "ctr_factorization_machine": "`embedding_l2` and `learning_rate`; published: 5e-6 and 0.001; the width stays 10",
    "wide_deep": "`embedding_l2` and `dropout` of DeepFM; published: 0.1 and 0.6, of which no trial is recorded",
    "finalmlp": "one head of the bilinear form; published: 5, see below",
    "finalnet": "both blocks have two layers; published: the second has one of 400",
}
"""Settings that differ from the published ones, by row."""

CONDITIONS: Mapping[str, str] = {
    "e26ad52": "one thread per training; other programs ran on the machine meanwhile, whose load was not recorded, "
    "so times may be too long"
}
"""Conditions of trainings by commit, for those that were kept before threads and load were recorded."""

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "logistic_regression": (0.9356, 0.3076),
    "ctr_factorization_machine": (0.9671, 0.2065),
    "wide_deep": (0.9841, 0.1490),
    "deepfm": (0.9842, 0.1482),
    "dlrm": (0.9840, 0.1444),
    "dcn_v2": (0.9845, 0.1491),
    "finalmlp": (0.9861, 0.1484),
    "finalnet": (0.9857, 0.1311),
}
"""AUC and logarithmic loss on the test part by row, from the leaderboard of BARS."""

MAX_LOSS_OF_AUC = 0.001
"""A model should be at most this far below its published AUC."""


@dataclass(frozen=True)
class Figures:
    """Figures of one model on the test part."""

    auc: Estimate
    log_loss: Estimate
    aucs: list[float]
    """AUC of each seed."""
    valid: list[float]
    """AUC on validation of each seed."""
    valid_log_loss: list[float]
    """Log loss on validation of each seed."""
    seconds: float
    """Processor time of a training, mean over the seeds."""
    conditions: list[dict[str, Any]]
    """Of the training with each seed; see :func:`_conditions`."""


def run(options: Any) -> dict[str, Any]:
    """Train every model with every seed."""
    from benchmarks.__main__ import log

    check_earlier(options.reuse)
    rows = COUNTS | MODELS
    names = options.models.split(",") if options.models else list(rows)
    if unknown := [name for name in names if name not in rows]:
        raise ValueError(f"--models: unknown '{unknown[0]}', expected some of {', '.join(rows)}")
    parts = segue.split_examples(segue.load_examples(SOURCE))
    seeds = options.seeds
    if options.quick:
        parts, seeds = replace(parts, **{part: _head(getattr(parts, part)) for part in ("train", "valid", "test")}), 1
    labels_T = parts.test.frame["label"].to_numpy()
    models: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    tried: list[dict[str, Any]] = []
    for name in names:
        key, chosen = rows[name]
        if options.quick and "epochs" in chosen:
            chosen = chosen | {"epochs": 1}
        trials = _try(name, key, chosen, parts, options)
        if name in COUNTS:
            chosen = chosen | max(trials, key=lambda trial: trial["auc"])["change"]
        tried += trials
        settings[name] = key, chosen
        models[name] = asdict(_measure(name, key, chosen, parts, seeds, options.reuse))
        log(f"{name}: AUC {models[name]['auc']['mean']:.4f}, log loss {models[name]['log_loss']['mean']:.4f}")
    return {
        "source": SOURCE,
        "rows": {part: len(getattr(parts, part)) for part in ("train", "valid", "test")},
        "hash": parts.train.frame.hash_rows(0).sum(),
        "notes": list(parts.train.notes),
        "seeds": seeds,
        "settings": settings,
        "tried": tried,
        "baselines": {name: auc(labels_T, one) for name, one in baseline_scores(parts.train, parts.test).items()},
        "models": models,
    }


def _head(part: ExampleRows) -> ExampleTable:
    return ExampleTable(part.frame.head(2_000), part.location, part.notes)


def _try(name: str, key: str, settings: dict[str, Any], parts: ExampleSplit, options: Any) -> list[dict[str, Any]]:
    """Train with other settings and return their figures on validation."""
    from benchmarks.__main__ import log

    labels_T, trials = parts.valid.frame["label"].to_numpy(), []
    changes: Sequence[Mapping[str, Any]] = COUNTS_GRID if name in COUNTS else TRIED.get(name, ())
    for change in changes[:1] if options.quick else changes:
        found = _finish(key, settings | change, parts, 0, options.reuse, is_trial=name in MODELS)
        valid_T = found.arrays["valid"]
        figures = {"auc": auc(labels_T, valid_T), "log_loss": float(example_losses(labels_T, valid_T).mean())}
        trials.append({"row": name, "change": dict(change), **figures, **_conditions(found)})
        log(f"{name}, {dict(change)}: validation AUC {figures['auc']:.4f}, log loss {figures['log_loss']:.4f}")
    return trials


def _measure(
    name: str, key: str, settings: dict[str, Any], parts: ExampleSplit, seeds: int, earlier: str | None
) -> Figures:
    from benchmarks.__main__ import log

    found = []
    for seed in range(seeds):
        found.append(_finish(key, settings, parts, seed, earlier))
        duration = format_duration(found[-1].arrays["seconds"].item())
        log(f"{name}, seed {seed}: trained by {found[-1].commit}, {duration}")
    labels_T, on_test = parts.test.frame["label"].to_numpy(), [one.arrays["test"] for one in found]
    valid_T, on_valid = parts.valid.frame["label"].to_numpy(), [one.arrays["valid"] for one in found]
    losses_T = np.mean([example_losses(labels_T, one) for one in on_test], axis=0)
    return Figures(
        mean_auc_estimate(labels_T, np.stack(on_test)),
        estimate_values({"log_loss": losses_T}, 0)["log_loss"],
        [auc(labels_T, one) for one in on_test],
        [auc(valid_T, one) for one in on_valid],
        [float(example_losses(valid_T, one).mean()) for one in on_valid],
        float(np.mean([one.arrays["seconds"] for one in found])),
        [_conditions(one) for one in found],
    )


def _finish(
    key: str, settings: dict[str, Any], parts: ExampleSplit, seed: int, earlier: str | None, is_trial: bool = False
) -> Finished:
    """Train a model, or take a kept result.

    It has predictions (those of a trial are of validation alone), processor time, threads, and the CPU load of other
    programs in percent.
    """

    def compute() -> dict[str, NDArray[Any]]:
        psutil.cpu_percent()  # the next call returns the load since this one
        begun, started = time.perf_counter(), time.process_time()
        predict = _train(key, settings, parts, seed)
        elapsed, spent = time.perf_counter() - begun, time.process_time() - started
        load = psutil.cpu_percent() - 100 * spent / elapsed / (psutil.cpu_count() or 1)
        found = {"seconds": spent, "threads": torch.get_num_threads(), "load": max(load, 0.0)}
        scores = {part: predict(getattr(parts, part).frame) for part in (("valid",) if is_trial else ("valid", "test"))}
        return scores | {name: np.array(value) for name, value in found.items()}

    rows = str(parts.train.frame.hash_rows(0).sum())
    about = {"source": SOURCE, "rows": rows, "key": key, "settings": settings, "seed": seed}
    return reuse(about | ({"part": "valid"} if is_trial else {}), compute, earlier=earlier)


def _conditions(found: Finished) -> dict[str, Any]:
    """Return the commit of a training, and its threads and load if known."""
    known = {name: found.arrays[name].item() for name in ("threads", "load") if name in found.arrays}
    return {"commit": found.commit, **known}


def _train(key: str, settings: dict[str, Any], parts: ExampleSplit, seed: int) -> Predict:
    if key == "logistic_regression" and "target_statistics" in settings:
        return train_on_counts(parts.train.frame, parts.valid.frame, seed, **settings)
    return segue.train_clicks(key, parts.train, parts.valid, seed=seed, **settings).predict


def train_on_counts(
    train: pl.DataFrame,
    valid: pl.DataFrame,
    seed: int,
    *,
    target_statistics: Sequence[Sequence[str]],
    statistics_prior: float,
    l2_features: float,
) -> Predict:
    """Fit a logistic regression on counts and mean labels alone.

    Returns what predicts the rows of a table. Counts and means of a training example are of the other folds, as in
    ``gradient_boosting``; see :class:`TargetStatistics`.

    Args:
        seed: draws the folds.
        target_statistics: sets of fields whose combinations of categories are counted.
        statistics_prior: number of examples with the mean label that are added to each combination.
        l2_features: L2 regularization of the weights.
    """
    encoder = fit_encoder(train, ExampleSettings(min_count=1))
    statistics, examples = TargetStatistics.fit(
        encoder.encode(train), target_statistics, statistics_prior, STATISTICS_FOLDS, Run(seed).rng("folds")
    )
    names = list(statistics.names)

    def as_table(examples: Examples) -> pl.DataFrame:
        return pl.DataFrame(examples.numbers[:, -len(names) :], schema=names)

    def extend(table: pl.DataFrame) -> pl.DataFrame:
        return as_table(statistics.extend(encoder.encode(table, needs_labels=False)))

    model = segue.train_clicks(
        "logistic_regression",
        as_table(examples).with_columns(train["label"]),
        extend(valid).with_columns(valid["label"]),
        columns=dict.fromkeys(names, "number"),
        l2_features=l2_features,
    )
    return lambda table: model.predict(extend(table))


def baseline_scores(train: ExampleRows, test: ExampleRows) -> dict[str, NDArray[np.float64]]:
    """Return the scores of the simple baselines for the test rows, by name."""
    positive = train.frame.filter(pl.col("label") == 1)
    counts = positive.group_by("item").len("popularity")
    pairs = positive.select("user", "item").unique().with_columns(seen=pl.lit(1.0))
    rows = test.frame.select("user", "item").join(counts, on="item", how="left", maintain_order="left")
    rows = rows.join(pairs, on=["user", "item"], how="left", maintain_order="left").fill_null(0)
    popularity_T = rows["popularity"].to_numpy().astype(np.float64)
    seen_T = rows["seen"].to_numpy()
    return {
        "popularity of the item": popularity_T,
        "the user used the item in training": seen_T,
        "both": seen_T + popularity_T / (popularity_T.max() + 1),
    }


def page(found: dict[str, Any]) -> str:
    """Format the figures."""
    lines = ["# Click-through models on Frappe_x1", "", *_introduction(found), ""]
    lines += [
        "| model | AUC | published | log loss | published | AUC of the seeds | CPU time of a training |",
        "| --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for name, score in found["baselines"].items():
        lines.append(f"| {name} (simple baseline) | {score:.4f} | | | | | |")
    for name, figures in found["models"].items():
        published = [f"{value:.4f}" for value in PUBLISHED[name]] if name in PUBLISHED else ["", ""]
        seeds = ", ".join(f"{value:.4f}" for value in figures["aucs"])
        cells = [_interval(figures["auc"]), published[0], _interval(figures["log_loss"]), published[1], seeds]
        mark = " (simple baseline)" if name in COUNTS else ""
        lines.append(f"| `{name}`{mark} | {' | '.join(cells)} | {format_duration(figures['seconds'])} |")
    lines += ["", "## Targets", "", *_targets(found["models"]), "", "## Settings", "", *_settings(found)]
    return "\n".join([*lines, "", "## Machine and data", "", *_provenance(found), ""])


def _introduction(found: dict[str, Any]) -> list[str]:
    counts = [
        f"`{name}` {found['models'][name]['auc']['mean']:.4f} / {found['models'][name]['log_loss']['mean']:.4f}"
        for name in COUNTS
        if name in found["models"]
    ]
    regressions = (
        " Logistic regressions on counts and mean labels of categories, of each field and of user and item together "
        f"(`@user_item`) or of all pairs of fields (`@pairs`), have {' and '.join(counts)} (AUC / log loss)."
    )
    return [
        f"Each figure is the mean over {found['seeds']} seeds, with a 95 % interval over the examples of the test. The "
        "best epoch is chosen by AUC on validation; this run reads the test part once per model and seed.",
        "",
        f"The strongest ranking without training, `both`, has an AUC of {max(found['baselines'].values()):.4f}: "
        "negatives are apps that the user never used, so whether the pair occurs in training nearly gives the label "
        f"away.{regressions if counts else ''}",
        "",
        "Published: leaderboard of openbenchmark/BARS. Its DCNv2, FinalMLP and FinalNet are those of 12, 32 and 16 "
        "published runs with the highest AUC on the test; those with the highest one on validation have "
        "0.9839 / 0.1498, 0.9859 / 0.1518 and 0.9855 / 0.1349 (AUC / log loss).",
        "",
        *(f"{note}." for note in found["notes"]),
    ]


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _targets(models: Mapping[str, Any]) -> list[str]:
    """Compare with the published figures, and the best model on validation with the best published figures."""
    lines = []
    for name in (name for name in models if name in PUBLISHED):
        difference = models[name]["auc"]["mean"] - PUBLISHED[name][0]
        verdict = "met" if difference >= -MAX_LOSS_OF_AUC else "not met"
        lines.append(f"* `{name}`: AUC {difference:+.4f} from its published one (target -0.0010): {verdict}")
    if models:
        published_auc = max(value for value, _ in PUBLISHED.values())
        published_loss = min(value for _, value in PUBLISHED.values())
        best = max(models, key=lambda name: float(np.mean(models[name]["valid"])))
        lines.append(_best("AUC", best, models[best]["auc"], published_auc, False))
        lines.append(_best("log loss", best, models[best]["log_loss"], published_loss, True))
    return lines


def _best(metric: str, name: str, estimate: Mapping[str, float], published: float, is_error: bool) -> str:
    verdict = compare_figures((estimate["low"], estimate["high"]), published, is_error=is_error)
    words = {
        Verdict.BETTER: "better, but not claimed as a win, as training negatives differ",
        Verdict.ON_PAR: "on par (the interval holds it)",
        Verdict.WORSE: "worse",
    }
    return (
        f"* {metric}: `{name}`, the best on validation, {_interval(estimate)}; best published {published:.4f}: "
        f"{words[verdict]}"
    )


def _settings(found: dict[str, Any]) -> list[str]:
    """List how settings were chosen, what was tried, and those of each row."""
    changed = [f"* `{name}`: {text}" for name, text in CHANGED.items() if name in found["models"]]
    lines = [
        "Networks have the settings of the published runs, such as batches of 4,096, Adam with a learning rate of "
        "0.001, embeddings of width 10 and batch normalization. They stop after three epochs without improvement, at "
        "most 60; published: two, at most 100. Of the settings in the published logs, these differ too:",
        "",
        *changed,
        "",
        "`gradient_boosting` has its defaults. The settings of `gradient_boosting@pairs` were chosen on validation; "
        "which others were tried was not recorded. The simple baselines on counts have the settings below with the "
        "highest AUC. Changes are to the settings listed after this table; figures are on validation, with the first "
        "seed. Of other rows no trial is recorded.",
        "",
        "| model | changed settings | AUC | log loss |",
        "| --- | --- | ---: | ---: |",
    ]
    tried = found["tried"] + [{**one, "is_recorded": True} for one in RECORDED if one["row"] in found["models"]]
    for name in dict.fromkeys(trial["row"] for trial in tried):
        if name in MODELS:  # of the others, those of the row are among the trials
            figures = found["models"][name]
            lines.append(f"| `{name}` | none | {figures['valid'][0]:.4f} | {figures['valid_log_loss'][0]:.4f} |")
        for trial in (one for one in tried if one["row"] == name):
            change = ", ".join(f"{key}={value:g}" for key, value in trial["change"].items())
            change += " (recorded earlier, not measured by this command)" if "is_recorded" in trial else ""
            lines.append(f"| `{name}` | {change} | {trial['auc']:.4f} | {trial['log_loss']:.4f} |")
    return [*lines, "", *(f"* `{name}`: {settings[1]}" for name, settings in found["settings"].items())]


def _provenance(found: dict[str, Any]) -> list[str]:
    rows = ", ".join(f"{count:,} {part}" for part, count in found["rows"].items())
    data = f"* data: {found['source']}, {rows} rows, hash of the training rows {found['hash']}"
    trained = [(f"`{name}`", one) for name, figures in found["models"].items() for one in figures["conditions"]]
    trained += [(f"other settings of `{trial['row']}`", trial) for trial in found["tried"]]
    return [data, *_training_lines(trained), *describe_lines(found["machine"])]


def _training_lines(trained: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Format which commit trained which rows, with their threads and load."""
    by_conditions: dict[tuple[str, int | None], list[tuple[str, Mapping[str, Any]]]] = {}
    for name, one in trained:
        by_conditions.setdefault((one["commit"], one.get("threads")), []).append((name, one))
    lines = []
    for (commit, threads), group in by_conditions.items():
        names = ", ".join(dict.fromkeys(name for name, _ in group))
        if threads is None:
            text = CONDITIONS.get(commit, "threads and the load of other programs were not recorded")
        else:
            loads = [one["load"] for _, one in group]
            text = f"{threads} thread{'s' if threads > 1 else ''}; CPU load of other programs {min(loads):.0f} to "
            text += f"{max(loads):.0f} %, of which 100 % are all cores"
        lines.append(f"* trained by commit {commit}: {names}. Conditions: {text}")
    return lines
