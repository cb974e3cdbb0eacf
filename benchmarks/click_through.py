"""Click-through models on Frappe_x1, next to the published figures of its benchmark (openbenchmark/BARS).

The parts are given. Settings start from the published ones and were chosen on validation; each model is trained with
several seeds, and its best epoch is chosen on validation. A figure is the mean over the seeds; its interval is over the
examples of the test (AUC: DeLong; logarithmic loss: bootstrap).

Simple baselines: the popularity of the item; whether the pair of user and item occurs in training; and both, pairs of
training first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import segue
from benchmarks.finished import reuse
from benchmarks.machine import describe_lines
from benchmarks.verdicts import Verdict, compare_figures
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.evaluation.auc_variance import mean_auc_estimate
from segue.evaluation.bootstrap import Estimate, estimate_values
from segue.evaluation.click_metrics import auc
from segue.evaluation.evaluate_examples import example_losses
from segue.reports.quantities import format_duration

__all__ = ["MODELS", "PUBLISHED", "baseline_scores", "page", "run"]

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
            "target_statistics": [[one] for one in FIELDS] + [list(pair) for pair in combinations(FIELDS, 2)],
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
"""A model should be at most this far below the AUC of its published twin."""


@dataclass(frozen=True)
class Figures:
    """Figures of one model on the test part."""

    auc: Estimate
    log_loss: Estimate
    aucs: list[float]
    """AUC of each seed."""
    valid: list[float]
    """AUC on validation of each seed."""
    seconds: float
    """Processor time of a training, mean over the seeds."""


def run(options: Any) -> dict[str, Any]:
    """Train every model with every seed."""
    from benchmarks.__main__ import log

    names = options.models.split(",") if options.models else list(MODELS)
    if unknown := [name for name in names if name not in MODELS]:
        raise ValueError(f"--models: unknown '{unknown[0]}', expected some of {', '.join(MODELS)}")
    parts = segue.split_examples(segue.load_examples(SOURCE))
    train, valid, test = parts.train, parts.valid, parts.test
    if options.quick:
        train, valid, test = (
            ExampleTable(part.frame.head(2_000), part.location, part.notes) for part in (train, valid, test)
        )
    labels_T = test.frame["label"].to_numpy()
    scores = baseline_scores(train, test)
    found: dict[str, Any] = {}
    seeds = 1 if options.quick else options.seeds
    for name in names:
        found[name] = asdict(_measure(name, train, valid, test, seeds, options.quick, log))
        log(f"{name}: AUC {found[name]['auc']['mean']:.4f}, log loss {found[name]['log_loss']['mean']:.4f}")
    return {
        "source": SOURCE,
        "rows": {part: len(table) for part, table in (("train", train), ("valid", valid), ("test", test))},
        "hash": train.frame.hash_rows(0).sum(),
        "notes": list(train.notes),
        "seeds": seeds,
        "settings": {name: MODELS[name] for name in names},
        "baselines": {name: auc(labels_T, one) for name, one in scores.items()},
        "models": found,
    }


def _measure(
    name: str,
    train: ExampleRows,
    valid: ExampleRows,
    test: ExampleRows,
    seeds: int,
    quick: bool,
    log: Callable[[str], None],
) -> Figures:
    key, settings = MODELS[name]
    if quick and "epochs" in settings:
        settings = settings | {"epochs": 1}
    labels_T = test.frame["label"].to_numpy()
    predictions, on_valid, seconds = [], [], []
    for seed in range(seeds):

        def compute(seed: int = seed) -> dict[str, NDArray[Any]]:
            started = time.process_time()
            model = segue.train_clicks(key, train, valid, seed=seed, **settings)
            spent = time.process_time() - started
            scores = {"valid": model.predict(valid.frame), "test": model.predict(test.frame)}
            return scores | {"seconds": np.array(spent)}

        about = {"source": SOURCE, "rows": str(train.frame.hash_rows(0).sum()), "key": key, "settings": settings}
        found = reuse(about | {"seed": seed}, compute)
        seconds.append(float(found["seconds"]))
        predictions.append(found["test"])
        on_valid.append(auc(valid.frame["label"].to_numpy(), found["valid"]))
        log(f"{name}, seed {seed}: validation AUC {on_valid[-1]:.4f}, {format_duration(seconds[-1])}")
    losses_T = np.mean([example_losses(labels_T, one) for one in predictions], axis=0)
    return Figures(
        mean_auc_estimate(labels_T, np.stack(predictions)),
        estimate_values({"log_loss": losses_T}, 0)["log_loss"],
        [auc(labels_T, one) for one in predictions],
        on_valid,
        float(np.mean(seconds)),
    )


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
        lines.append(f"| `{name}` | {' | '.join(cells)} | {format_duration(figures['seconds'])} |")
    lines += ["", "## Targets", "", *_targets(found["models"]), "", "## Settings", ""]
    lines += [f"* `{name}`: {settings[1]}" for name, settings in found["settings"].items()]
    return "\n".join([*lines, "", "## Machine and data", "", *_provenance(found), ""])


def _introduction(found: dict[str, Any]) -> list[str]:
    best = max(found["baselines"].values())
    return [
        f"Each figure is the mean over {found['seeds']} seeds, with a 95 % interval over the examples of the test. The "
        "best epoch is chosen by AUC on validation; the test part is read once per model and seed. Published: "
        "leaderboard of openbenchmark/BARS. "
        f"The strongest simple baseline has an AUC of {best:.4f}: negatives are apps that the user "
        "never used, so whether the pair occurs in training nearly gives the label away.",
        "",
        *(f"{note}." for note in found["notes"]),
    ]


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"


def _targets(models: Mapping[str, Any]) -> list[str]:
    """Compare with the published twins, and the best model on validation with the best published figures."""
    lines = []
    for name in (name for name in models if name in PUBLISHED):
        difference = models[name]["auc"]["mean"] - PUBLISHED[name][0]
        is_met = difference >= -MAX_LOSS_OF_AUC
        lines.append(f"* `{name}`: AUC {difference:+.4f} against its published twin: {'met' if is_met else 'not met'}")
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
        Verdict.BETTER: "beyond it; no win is claimed, as training negatives differ",
        Verdict.ON_PAR: "on par (the interval holds it)",
        Verdict.WORSE: "worse",
    }
    return (
        f"* {metric}: `{name}`, the best on validation, {_interval(estimate)}; best published {published:.4f}: "
        f"{words[verdict]}"
    )


def _provenance(found: dict[str, Any]) -> list[str]:
    rows = ", ".join(f"{count:,} {part}" for part, count in found["rows"].items())
    data = f"* data: {found['source']}, {rows} rows, hash of the training rows {found['hash']}"
    return [data, *describe_lines(found["machine"])]
