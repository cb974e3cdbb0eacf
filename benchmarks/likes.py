"""Likes of MovieLens 1M: all click-through models on the same rows.

An example is a rating; ratings of 4 and more are positive. Two tables:

``ml-1m``
    All ratings, split at random into 80 % training, 10 % validation and 10 % test, with features of users and films and
    the user's earlier liked films among the training rows.

``collm-ml-1m``
    The ratings of June 2001 to January 2003 as in CoLLM, split by month, with features of films and the user's earlier
    liked films, which in validation and test include those of the same period, as in the published evaluation.

The settings of each model are chosen from a grid by AUC on validation with the first seed. An interrupted run of a
commit continues. A figure is the mean over
the seeds; its interval is over the examples of the test (AUC: DeLong; logarithmic loss: bootstrap). The simple baseline
adds up the log odds of the item's and the user's share of likes in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

import segue
from benchmarks.collm import PUBLISHED as COLLM
from benchmarks.finished import reuse
from benchmarks.machine import describe_lines
from benchmarks.table_rows import head_lines, row_line, select_rows
from segue.data import load
from segue.data.examples.splits import ExampleSplit
from segue.data.examples.table import ExampleRows, ExampleTable
from segue.data.sources.collm_ml_1m import TEST_FROM, VALID_FROM
from segue.evaluation.auc_variance import mean_auc_estimate
from segue.evaluation.bootstrap import estimate_values
from segue.evaluation.click_metrics import auc, uauc
from segue.evaluation.evaluate_examples import example_losses
from segue.reports.quantities import format_duration

__all__ = ["MODELS", "SOURCES", "combine", "grid_of", "mean_scores", "page", "run", "without_held_out"]

Values = NDArray[np.float64]

BASELINE = "item mean + user mean"
PRIOR = 5.0
"""Events with the mean label that are added to each item and user; chosen on validation in ``collm``."""
MAX_HISTORY = 20


@dataclass(frozen=True)
class Source:
    """A table."""

    columns: tuple[str, ...]
    kinds: Mapping[str, str]
    about: str
    published: Mapping[str, tuple[float, float]]
    """AUC and UAUC."""
    strengths: tuple[tuple[float, float], ...]
    """``embedding_l2`` and ``dropout`` that networks choose from."""
    ridges: tuple[float, ...]
    """``l2_features`` that logistic regression chooses from."""


FILM = {"item.genres": "tags", "item.year": "number"}
SOURCES: dict[str, Source] = {
    "ml-1m": Source(
        ("user", "item", "user.age", "user.gender", "user.occupation", "item.genres", "item.year", "history"),
        {**FILM, "user.age": "category", "history": "sequence"},
        "All ratings of MovieLens 1M, split at random. Histories are the user's earlier liked films among the training "
        "rows: labels of other parts are no input.",
        {},
        ((1e-4, 0.2), (1e-3, 0.2), (1e-2, 0.2)),
        (3.0, 10.0, 30.0),
    ),
    "collm-ml-1m": Source(
        ("user", "item", "item.genres", "item.year", "item.directors", "item.rated", "history"),
        {**FILM, "item.directors": "tags", "history": "sequence"},
        "The ratings of June 2001 to January 2003 as in CoLLM, split by month. Histories are the user's earlier liked "
        "films, in the test also those of the test months, as in the published evaluation.",
        COLLM,
        ((1e-3, 0.2), (1e-2, 0.2), (1e-1, 0.2), (1e-2, 0.5)),
        (0.3, 1.0, 3.0, 10.0, 30.0),
    ),
}

TOWER: dict[str, Any] = {"embedding_dim": 16, "hidden": [128, 64], "batch_size": 2048, "patience": 2, "epochs": 20}
WITHOUT_HISTORY: dict[str, Any] = {"columns": {"history": "ignore"}, "shares": {}}
TOWERS = ("wide_deep", "deepfm", "dlrm", "dcn_v2", "finalmlp", "finalnet", "din", "text_cnn")
MODELS: dict[str, dict[str, Any]] = {
    "logistic_regression": {},
    "ctr_factorization_machine": {key: value for key, value in TOWER.items() if key != "hidden"},
    **dict.fromkeys(TOWERS, TOWER),
    "gradient_boosting": {"iterations": 1_000, "patience": 20, "learning_rate": 0.05},
}
"""Settings by key."""


def grid_of(source: str, name: str) -> list[dict[str, Any]]:
    """Return the settings that a model chooses from."""
    if name == "logistic_regression":
        return [one | {"l2_features": l2} for one in ({}, WITHOUT_HISTORY) for l2 in SOURCES[source].ridges]
    if name == "gradient_boosting":
        return [{}, {"target_statistics": [["user"], ["item"]]}]
    if name == "ctr_factorization_machine":
        values = sorted({l2 for l2, _ in SOURCES[source].strengths})
        return [{"embedding_l2": l2, "learning_rate": 3e-3} for l2 in values]
    return [
        {"embedding_l2": l2, "dropout": dropout, "learning_rate": 1e-3} for l2, dropout in SOURCES[source].strengths
    ]


def run(
    source: str | None, models: str | None, seeds: int, log: Callable[[str], None], quick: bool = False
) -> dict[str, Any]:
    """Choose the settings of every model on a table, and train it with every seed."""
    source = source or "ml-1m"
    if source not in SOURCES:
        raise ValueError(f"--source: got '{source}', expected {' or '.join(SOURCES)}")
    names = select_rows(models, MODELS)
    data = load(source, log=log)
    found = measure(source, data, names, 1 if quick else seeds, quick, log)
    return {"source": source, "data_hash": data.header.get("hash"), **found}


def measure(
    source: str, data: Any, names: list[str], seeds: int, quick: bool, log: Callable[[str], None]
) -> dict[str, Any]:
    """Measure the models on a table."""
    table = derive(source, data)
    parts = split_table(source, table.take(np.arange(min(3_000, len(table)))) if quick else table)
    train, valid, test = parts.train, parts.valid, parts.valid if quick else parts.test
    labels_E, users_E = (test.frame[name].to_numpy() for name in ("label", "user"))
    baseline = {part: mean_scores(train, table) for part, table in (("valid", valid), ("test", test))}
    rows: dict[str, Any] = {}
    for name in names:
        settings, grid = MODELS[name], grid_of(source, name)
        settings = settings | {"columns": dict(SOURCES[source].kinds), "shares": {"history": "item"}}
        if quick:
            settings, grid = settings | ({"epochs": 1} if "epochs" in settings else {}), grid[:1]
        choices = [_finish(source, name, parts, test, combine(settings, one), 0) for one in grid]
        on_valid = [auc(valid.frame["label"].to_numpy(), one["valid"]) for one in choices]
        best = int(np.argmax(on_valid))
        others = [_finish(source, name, parts, test, combine(settings, grid[best]), seed) for seed in range(1, seeds)]
        predictions = [one["test"] for one in (choices[best], *others)]
        choice_seconds = sum(float(one["seconds"]) for one in choices)
        seconds = float(np.mean([one["seconds"] for one in (choices[best], *others)]))
        losses_E = np.mean([example_losses(labels_E, one) for one in predictions], axis=0)
        rows[name] = {
            "chosen": grid[best],
            "grid": [[one, value] for one, value in zip(grid, on_valid, strict=True)],
            "auc": asdict(mean_auc_estimate(labels_E, np.stack(predictions))),
            "log_loss": asdict(estimate_values({"log_loss": losses_E}, 0)["log_loss"]),
            "aucs": [auc(labels_E, one) for one in predictions],
            "uauc": float(np.mean([uauc(users_E, labels_E, one) for one in predictions])),
            "choice_seconds": choice_seconds,
            "seconds": seconds,
        }
        log(f"{name}: validation {on_valid[best]:.4f} with {grid[best]}, {format_duration(choice_seconds)}")
    return {
        "rows": rows,
        "sizes": {part: len(table) for part, table in (("train", train), ("valid", valid), ("test", test))},
        "hash": train.rows_hash,
        "seeds": seeds,
        "baseline": {
            "valid": auc(valid.frame["label"].to_numpy(), baseline["valid"]),
            "auc": asdict(mean_auc_estimate(labels_E, baseline["test"][None])),
            "uauc": uauc(users_E, labels_E, baseline["test"]),
        },
    }


def combine(settings: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with those of the grid; kinds of columns are added to those of the table."""
    columns = {**settings.get("columns", {}), **one.get("columns", {})}
    return {**settings, **one, "columns": columns}


def _finish(
    source: str, name: str, parts: ExampleSplit, test: ExampleRows, settings: dict[str, Any], seed: int
) -> Mapping[str, NDArray[Any]]:
    """Train a model, or take what an interrupted run has kept: predictions and processor time."""

    def compute() -> dict[str, NDArray[Any]]:
        started = time.process_time()
        model = segue.train_clicks(name, parts.train, parts.valid, seed=seed, **settings)
        seconds = np.array(time.process_time() - started)
        scores = {
            part: model.predict(rows.frame).astype(np.float64)
            for part, rows in (("valid", parts.valid), ("test", test))
        }
        return scores | {"seconds": seconds}

    rows = f"{parts.train.rows_hash} {parts.valid.rows_hash} {test.rows_hash}"
    about = {"part": "likes", "source": source, "rows": rows, "key": name, "settings": settings, "seed": seed}
    return reuse(about, compute).arrays


def derive(source: str, data: Any) -> ExampleTable:
    """Return the table with the columns that models read, and ``time``."""
    threshold = 0.5 if source == "collm-ml-1m" else 3.5
    table = segue.derive_examples(data, threshold=threshold, history=MAX_HISTORY)
    return ExampleTable(table.frame.select("label", "time", *SOURCES[source].columns), table.location, table.notes)


def split_table(source: str, table: ExampleTable) -> ExampleSplit:
    """Split a table as published, or at random."""
    if source == "collm-ml-1m":
        time_E = pl.col("time").dt.date().cast(pl.String)
        part = pl.when(time_E < VALID_FROM).then(pl.lit("train")).when(time_E < TEST_FROM).then(pl.lit("valid"))
        frame = table.frame.with_columns(part=part.otherwise(pl.lit("test"))).drop("time")
        return segue.split_examples(frame, "given", column="part")
    parts = segue.split_examples(table.frame.drop("time"), "random", valid=0.1, test=0.1)
    train, valid, test = (without_held_out(part, parts) for part in (parts.train, parts.valid, parts.test))
    return replace(parts, train=train, valid=valid, test=test)


def without_held_out(part: ExampleRows, parts: ExampleSplit) -> ExampleTable:
    """Remove the items of a user's validation and test rows from the histories."""
    held_out = pl.concat([one.frame.select("user", pl.col("item")) for one in (parts.valid, parts.test)])
    rows = part.frame.select("user", pl.col("history").cast(pl.List(pl.String))).with_row_index("row")
    kept = (
        rows.explode("history", empty_as_null=False)
        .join(held_out, left_on=["user", "history"], right_on=["user", "item"], how="anti", maintain_order="left")
        .group_by("row", maintain_order=True)
        .agg("history")
    )
    histories = rows.select("row").join(kept, on="row", how="left", maintain_order="left")["history"].fill_null([])
    return ExampleTable(part.frame.with_columns(history=histories), part.location, part.notes)


def mean_scores(train: ExampleRows, part: ExampleRows) -> Values:
    """Add up the log odds of the item's and the user's smoothed share of likes."""
    mean = float(train.frame["label"].mean())  # type: ignore[arg-type]
    rows = part.frame.select("user", "item")
    for column in ("user", "item"):
        share = (pl.col("label").sum() + PRIOR * mean) / (pl.len() + PRIOR)
        odds = train.frame.group_by(column).agg((share / (1 - share)).log().alias(f"{column} odds"))
        rows = rows.join(odds, on=column, how="left", maintain_order="left")
    unknown = float(np.log(mean / (1 - mean)))
    total = rows.select(pl.col("user odds").fill_null(unknown) + pl.col("item odds").fill_null(unknown))
    return total["user odds"].to_numpy().astype(np.float64)


def page(found: Mapping[str, Any]) -> str:
    """Format the table."""
    source = SOURCES[found["source"]]
    sizes = ", ".join(f"{count:,} {part}" for part, count in found["sizes"].items())
    option = "" if set(found["rows"]) == set(MODELS) else f" --models {','.join(found['rows'])}"
    option += "" if found["seeds"] == 3 else f" --seeds {found['seeds']}"
    best = found["baseline"]
    lines = [
        f"# Likes: {found['source']}",
        "",
        f"{source.about} Columns: {', '.join(f'`{name}`' for name in source.columns)}. Rows: {sizes}. All models read "
        "all "
        "columns, but for `logistic_regression`, whose grid has settings with and without the history.",
        "",
        f"Test figures are means over {found['seeds']} seeds, validation AUC is that of the first seed, by which "
        "settings "
        "were chosen. Brackets are 95 % intervals over the examples of the test, which count ratings of one user as "
        "independent. UAUC is the mean over users with both labels of the AUC of their own examples. Settings and the "
        "best "
        "epoch are chosen by AUC on validation; this run reads the test part once per model and seed.",
        "",
        "```sh",
        f"python -m benchmarks likes --source {found['source']}{option} --out docs/results",
        "```",
        "",
        *head_lines(["model", "validation AUC", "AUC", "UAUC", "log loss", "AUC by seed", "CPU s"], 6),
        row_line([f"{BASELINE} (simple baseline)", f"{best['valid']:.4f}", *_areas(best), "", "", ""]),
    ]
    for name, row in found["rows"].items():
        on_valid = max(value for _, value in row["grid"])
        by_seed = ", ".join(f"{value:.4f}" for value in row["aucs"])
        cells = [f"`{name}`", f"{on_valid:.4f}", *_areas(row)]
        lines.append(row_line([*cells, _interval(row["log_loss"]), by_seed, f"{row['seconds']:.0f}"]))
    for name, (area, own) in source.published.items():
        lines.append(row_line([f"{name}, published", "", f"{area:.4f}", f"{own:.4f}", "", "", ""]))
    if source.published:
        lines += [
            "",
            "Published models read other inputs, the language models also titles: the figures are context, not a "
            "comparison. [Another page](collm.md) has read the same test part several times.",
        ]
    lines += [
        "",
        "## Settings",
        "",
        f"Networks have embeddings of {TOWER['embedding_dim']}, layers {TOWER['hidden']} (not "
        f"`ctr_factorization_machine`), batches of {TOWER['batch_size']:,}, at most {TOWER['epochs']} epochs and a "
        f"patience of {TOWER['patience']}; `gradient_boosting` has at most 1,000 trees, a learning rate of 0.05 and a "
        f"patience of 20. Histories have the last {MAX_HISTORY} items. Validation AUC of the settings in the grid:",
        "",
    ]
    for name, row in found["rows"].items():
        lines += [f"* `{name}`: " + "; ".join(f"{one or 'no other'} {value:.4f}" for one, value in row["grid"])]
    lines += ["", f"* data hash {found['data_hash']}; hash of the training rows {found['hash']}"]
    return "\n".join([*lines, *(describe_lines(found["machine"]) if "machine" in found else []), ""])


def _areas(row: Mapping[str, Any]) -> list[str]:
    return [_interval(row["auc"]), f"{row['uauc']:.4f}"]


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f} [{estimate['low']:.4f}, {estimate['high']:.4f}]"
