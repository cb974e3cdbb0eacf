"""Speed of click-through models, compared with torch-rechub and DeepCTR-Torch; and latency of 1,000 candidates.

All libraries train the same architecture on the same codes: equal embeddings, layers, batches and epochs, the optimizer
Adam, one process each, in turns. Each is used through the trainer that its documentation shows. ``small`` has few
categories, as Frappe; ``large`` has a million, so that updating all embeddings in each step is most of the work.

The matrix products of the layers take the same time in all libraries. The page states how long they take at least, from
the rate of the machine, and so which ratio no implementation can exceed.

Then 1,000 candidates with 30 fields are ordered in the service, see :mod:`benchmarks.click_service`. Each row is saved
in the folder of the report when it is measured; ``--resume`` continues an interrupted run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.click_service import MAX_MS, N_CANDIDATES, measure_services, page_lines
from benchmarks.environments import interpreter
from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import estimate_ratio, format_ratio
from benchmarks.subprocess_runner import Arrays, find_python, run_alternating, run_in_subprocess
from benchmarks.table_rows import head_lines, row_line
from segue.evaluation.click_metrics import auc, log_loss

__all__ = ["MODELS", "SavedRows", "count_products", "examples", "page", "run"]

ROUNDS = 3
MODELS = ("deepfm", "dcn_v2", "dlrm", "din")
LIBRARIES = {"Segue": "segue", "torch-rechub": "torch_rechub", "DeepCTR-Torch": "deepctr_torch"}
LACKS = {"torch-rechub": ("dlrm",), "DeepCTR-Torch": ("dlrm",)}
"""Models that a library does not have."""

SETTINGS: dict[str, Any] = {
    "embedding_dim": 16,
    "hidden": [256, 128],
    "batch_norm": True,
    "activation": "dice",
    "batch_size": 2048,
    "epochs": 1,
    "learning_rate": 1e-3,
    "num_crosses": 3,
    "attention_hidden": [64, 16],
}
SIZES: dict[str, dict[str, int]] = {
    "small": {"examples": 100_000, "fields": 26, "categories": 200, "numbers": 4, "items": 4_000, "length": 20},
    "large": {"examples": 100_000, "fields": 26, "categories": 40_000, "numbers": 4, "items": 1_000_000, "length": 20},
}
"""``examples`` are trained, and as many others are scored."""
QUICK_SIZES = {"small": {"examples": 4_000, "fields": 4, "categories": 20, "numbers": 2, "items": 50, "length": 5}}
AIM = 5.0
"""Ratio of training speeds that is aimed for."""

NOTES = (
    "each library is used through its own trainer, without validation and without regularization; towers have batch "
    "normalization everywhere, as those of torch-rechub cannot do without",
    "neither torch-rechub nor DeepCTR-Torch has DLRM; data are simulated, no test part is read",
    "Adam of the other libraries updates all embeddings in each step; that of Segue updates those of the batch if "
    "all fields together have 100,000 rows or more (`lazy_rows`), which is another optimizer; it applies in `large` "
    "only, and its share of the ratios there was not measured",
    "Segue multiplies each number by a learned vector; the others append numbers to the embeddings, so that their "
    "layers are narrower",
    "after this epoch of 49 steps the log losses of Segue are higher than those of the others, but for torch-rechub's "
    "`din`, whose log loss is that of a constant; the cause was not measured",
    "the linear part of torch-rechub's DeepFM reads the embeddings; DeepCTR-Torch's DCN has a linear part in addition",
    "`din`: attention with Dice; Segue reads histories of their own lengths, the others padded ones; the attention of "
    "torch-rechub also has batch normalization, the tower of DeepCTR-Torch has ReLU, and the numbers are no input of "
    "torch-rechub's model, which reads the item twice instead",
)
"""Differences between the libraries that settings cannot remove."""

ROWS_FILE = "click_speed.rows.json"
"""In the folder of the report: rows of the current run."""


class SavedRows:
    """Rows that are saved as soon as they are measured.

    Args:
        file: receives the rows.
        resume: whether rows of an earlier run are used.
    """

    def __init__(self, file: Path, resume: bool) -> None:
        self.file = file
        self.rows: dict[str, Any] = json.loads(file.read_text()) if resume and file.exists() else {}

    def get(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a row, measured now unless an earlier run has it."""
        if name not in self.rows:
            self.rows[name] = measure()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.rows))
        return self.rows[name]


def run(options: Any) -> dict[str, Any]:
    """Measure training and scoring in all libraries, then the service."""
    for library in ("torch-rechub", "deepctr-torch"):
        interpreter(library, install=True)
    settings = SETTINGS | ({"epochs": 1, "batch_size": 256} if options.quick else {})
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "settings": settings, "threads": options.threads}
    saved = SavedRows(options.out / ROWS_FILE, options.resume)
    found["tables"] = {}
    found["rates"] = saved.get("rates", partial(_measure_rates, options.threads, settings))
    for size, sizes in (QUICK_SIZES if options.quick else SIZES).items():
        arrays, runs = examples(sizes, options.seed), dict[str, Any]()
        for model in MODELS:
            job = {"part": "clicks", "model": model, "threads": options.threads, "settings": settings, "sizes": sizes}
            jobs = [
                (f"{model}, {name}", library, job)
                for name, library in LIBRARIES.items()
                if model not in LACKS.get(name, ())
            ]
            runs |= saved.get(f"{size}/{model}", partial(_train, jobs, arrays, options.quick))
        found["tables"][size] = summarize(runs, sizes, settings)
    found["service"] = saved.get("service", partial(measure_services, quick=options.quick))
    return found


def _train(jobs: list[Any], arrays: Arrays, quick: bool) -> dict[str, Any]:
    """Train a model in all libraries, which take turns; measure the accuracy on the examples that are scored."""
    found = {}
    for name, (figures, results) in run_alternating(1 if quick else ROUNDS, jobs, arrays).items():
        probabilities = results["predicted"]
        labels = arrays["labels"][-len(probabilities) :]
        found[name] = figures | {"auc": auc(labels, probabilities), "log_loss": log_loss(labels, probabilities)}
    return found


def _measure_rates(threads: int, settings: dict[str, Any]) -> dict[str, float]:
    """Return the rates of matrix products in several shapes, in GFLOP/s."""
    python = find_python("segue")
    assert python is not None
    batch, width = settings["batch_size"], settings["hidden"][0]
    shapes = {"embedding_dim": width, "items": 2 * width, "rows": batch, "batch": batch, "length": 1}
    figures, _ = run_in_subprocess("gemm", python, shapes | {"threads": threads}, {})
    return {name: figures[name] for name in ("square", "head_logits", "head_hidden", "head_vectors", "dense")}


def count_products(model: str, sizes: dict[str, int], settings: dict[str, Any]) -> float | None:
    """Return the operations of matrix products in training one example; ``None``: not counted for this model.

    Two per multiply-add, in the forward pass and, for the gradients of both factors, twice in the backward pass.
    """
    width = (sizes["fields"] + sizes["numbers"]) * settings["embedding_dim"]
    layers = [width, *settings["hidden"]]
    tower = sum(a * b for a, b in pairwise(layers))
    crosses = {"deepfm": 0, "dcn_v2": settings["num_crosses"] * width**2}
    return 6.0 * (tower + crosses[model]) if model in crosses else None


def examples(sizes: dict[str, int], seed: int = 0) -> Arrays:
    """Draw codes with frequencies as of categories in practice (Zipf), numbers, histories and labels.

    Twice as many as are trained: the second half is scored.
    """
    rng = np.random.default_rng(seed)
    count, width = 2 * sizes["examples"], sizes["categories"]

    def draw(shape: Any, n: int) -> Any:
        return np.minimum(np.floor(n ** rng.random(shape)), n - 1).astype(np.int32)

    codes, items = draw((count, sizes["fields"]), width), draw(count, sizes["items"])
    histories = draw((count, sizes["length"]), sizes["items"])
    lengths = rng.integers(1, sizes["length"] + 1, count)
    numbers = rng.normal(size=(count, sizes["numbers"])).astype(np.float32)
    logits = (codes[:, 0] % 3 - 1) + (codes[:, 1] % 2) * numbers[:, 0] + (items % 2) - 0.5
    labels = (rng.random(count) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    return {
        "codes": codes,
        "numbers": numbers,
        "labels": labels,
        "items": items,
        "histories": histories,
        "lengths": lengths.astype(np.int32),
    }


def summarize(runs: dict[str, Any], sizes: dict[str, int], settings: dict[str, Any]) -> dict[str, Any]:
    """Compute examples per second, and ratios to the other libraries in wall and processor time."""
    rows = {}
    for name, figures in runs.items():
        model = name.partition(", ")[0]
        speed = sizes["examples"] * settings["epochs"] / figures["fit_seconds"]
        row = figures | {
            "examples_per_second": speed,
            "scored_per_second": sizes["examples"] / figures["score_seconds"],
        }
        own = runs.get(f"{model}, Segue")
        if own is not None and own is not figures:
            row["ratio"] = estimate_ratio(figures["all_fit_seconds"], own["all_fit_seconds"])
            row["cpu_ratio"] = estimate_ratio(figures["all_cpu_seconds"], own["all_cpu_seconds"])
            row["score_ratio"] = figures["score_seconds"] / own["score_seconds"]
            row["score_cpu_ratio"] = figures["score_cpu_seconds"] / own["score_cpu_seconds"]
        rows[name] = row
    return {"sizes": sizes, "rows": rows}


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings = found["settings"]
    lines = [
        "# Speed of click-through models",
        "",
        f"Equal sizes: embeddings of {settings['embedding_dim']} numbers, layers {settings['hidden']}, "
        f"batches of {settings['batch_size']:,}, one epoch, Adam, {found['threads']} thread(s), simulated data. The "
        f"libraries take turns in {ROUNDS} rounds, each in new processes; figures are those of the fastest training. "
        "Ratios in training are the geometric mean over the rounds, with a 95 % interval (t, of the logarithms); those "
        "in scoring are of the runs with the fastest training, without an interval. AUC and log loss are those of the "
        "examples that are scored, not those of training. One epoch with settings that are not tuned does not compare "
        "accuracy.",
        "",
        *_verdict_lines(found),
    ]
    labels = [
        "trained examples/s",
        "Segue is so many times as fast",
        "the same, processor time",
        "scored examples/s",
        "Segue is so many times as fast",
        "the same, processor time",
        "AUC",
        "log loss",
        "peak MiB",
    ]
    for size, table in found["tables"].items():
        sizes = table["sizes"]
        lines += [
            "",
            f"## {size}",
            "",
            f"{sizes['examples']:,} examples are trained on and as many others scored. {sizes['fields']} fields of "
            f"{sizes['categories']:,} categories and {sizes['numbers']} numbers; `din`: one of "
            f"{sizes['items']:,} items and the last {sizes['length']}.",
            "",
            *head_lines(["model", "library", *labels], len(labels)),
        ]
        for name, row in table["rows"].items():
            model, _, library = name.partition(", ")
            ratios = [format_ratio(row[key]) if key in row else "" for key in ("ratio", "cpu_ratio")]
            scored = [f"{row[key]:.2f}" if key in row else "" for key in ("score_ratio", "score_cpu_ratio")]
            lines.append(
                row_line(
                    [
                        model,
                        library,
                        f"{row['examples_per_second']:,.0f}",
                        *ratios,
                        f"{row['scored_per_second']:,.0f}",
                        *scored,
                        f"{row['auc']:.4f}",
                        f"{row['log_loss']:.4f}",
                        f"{row['peak_mib']:,.0f}",
                    ]
                )
            )
        lines += ["", *_bound_lines(table, found)]
    lines += ["", *page_lines(found["service"])]
    lines += [
        "",
        *(f"* {note}" for note in NOTES),
    ]
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])


def _verdict_lines(found: dict[str, Any]) -> list[str]:
    """State which comparisons reach the aims, by the lower end of their interval."""
    ratios = {
        f"{name} ({size})": row["ratio"]
        for size, table in found["tables"].items()
        for name, row in table["rows"].items()
        if "ratio" in row
    }
    reached = [name for name, one in ratios.items() if (one["low"] or one["ratio"]) >= AIM]
    faster = [name for name, one in ratios.items() if (one["low"] or one["ratio"]) > 1]
    medians = {name: row["p50_ms"] for name, row in found["service"].items() if row["fields"]}
    fast = [f"{name} ({ms:.2f} ms)" for name, ms in medians.items() if ms <= MAX_MS]
    disturbed = (
        [
            f"* **Other programs used {found['load_before_percent']:.0f} % of the processors at the start.** They "
            "disturb all rates, ratios and latencies below, so that this run does not decide whether the aims are met."
        ]
        if found["load_before_percent"] > found["max_load_percent"]
        else []
    )
    return [
        *disturbed,
        f"* Aim in training, {AIM:g} times the speed of the other libraries, by the lower end of the interval: reached "
        f"in {len(reached)} of {len(ratios)} comparisons{_listed(reached)}. By the lower end of the interval, not "
        "corrected for the number of "
        f"comparisons, Segue is faster in {len(faster)}.",
        f"* Aim in the service, a median of {MAX_MS:g} ms for {N_CANDIDATES:,} candidates: reached by {len(fast)} of "
        f"{len(medians)} second stages{_listed(fast)}.",
    ]


def _listed(names: list[str]) -> str:
    return f": {'; '.join(names)}" if names else ""


def _bound_lines(table: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """State how long the matrix products take at least, and the ratio of speeds that they allow."""
    rate = max(found["rates"].values())
    lines = []
    for model in MODELS:
        operations = count_products(model, table["sizes"], found["settings"])
        others = {
            name.partition(", ")[2]: row["fit_seconds"]
            for name, row in table["rows"].items()
            if name.startswith(f"{model}, ") and "ratio" in row
        }
        if operations is None or not others:
            continue
        least = table["sizes"]["examples"] * found["settings"]["epochs"] * operations / rate / 1e9
        limits = " and ".join(f"{seconds / least:.1f} ({library})" for library, seconds in others.items())
        lines.append(
            f"* `{model}`: the matrix products of Segue's layers alone take at least {least:.1f} s at {rate:.0f} "
            f"GFLOP/s, the rate of the fastest of {len(found['rates'])} shapes; training takes "
            f"{table['rows'][f'{model}, Segue']['fit_seconds']:.1f} s. At this rate no implementation of them can be "
            f"more than {limits} times as fast."
        )
    return lines
