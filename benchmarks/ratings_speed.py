"""Speed of rating factorizations: Segue, Spark, LensKit, Cornac and Surprise, on one random split.

Four fifths of the ratings of MovieLens 1M train; all libraries predict the same pairs of the last fifth. Only fitting
is timed, from a table in memory in the library's own format. Each runs in fresh processes, alternately with the others,
and the fastest run counts. Errors are computed here, by the same function for all; a missing prediction is replaced by
the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.subprocess_runner import Arrays, run_alternating

__all__ = ["PAIRS", "RUNS", "errors", "page", "pairs", "run"]

ALS = {"embedding_dim": 64, "iterations": 10, "l2": 0.08, "l2_bias": 0.03}
"""Settings of ``als``, chosen on a tenth of the training part."""

SMALL_ALS = {"embedding_dim": 32, "iterations": 8, "l2": 0.08, "l2_bias": 0.03, "solver": "conjugate_gradient"}
"""Settings of ``als`` that trade a small loss of accuracy for time."""

SVDPP = {
    "embedding_dim": 64,
    "iterations": 30,
    "learning_rate": 0.022,
    "learning_rate_decay": 0.95,
    "l2": 0.06,
    "l2_bias": 0.005,
}
"""Settings of ``svdpp``, chosen on a tenth of the training part."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "Segue als": ("segue", {"model": "als", "settings": ALS}),
    "Segue als, conjugate gradient": ("segue", {"model": "als", "settings": ALS | {"solver": "conjugate_gradient"}}),
    "Segue als, width 32": ("segue", {"model": "als", "settings": SMALL_ALS}),
    "Segue svdpp": ("segue", {"model": "svdpp", "settings": SVDPP}),
    "Spark ALS": ("spark", {"settings": {"rank": 64, "maxIter": 10, "regParam": 0.05}}),
    "LensKit BiasedMF": ("lenskit", {"settings": {"embedding_size": 64, "epochs": 10}}),
    "Cornac MF": ("cornac", {"settings": {"k": 64, "max_iter": 20, "learning_rate": 0.02, "lambda_reg": 0.05}}),
    "Surprise SVD": ("surprise", {"settings": {}}),
}
"""Library and settings of each run; other settings are the library's defaults."""

PAIRS = [
    *(
        (name, own)
        for name in ("Spark ALS", "LensKit BiasedMF")
        for own in ("Segue als", "Segue als, conjugate gradient")
    ),
    *(
        (name, own)
        for name in ("Cornac MF", "Surprise SVD")
        for own in ("Segue als, conjugate gradient", "Segue als, width 32", "Segue svdpp")
    ),
]
"""Pairs that are compared: the other library's run, and Segue's."""

NOTES = [
    "Settings of Segue's models were chosen on a tenth of the training part. The other libraries were not tuned: "
    "Spark, LensKit and Cornac have the settings above and otherwise their defaults, Surprise has its defaults.",
    "1 split, 1 seed (0). Each run was evaluated once on the test part.",
]
"""How settings were chosen, and how often the test part was read."""

ROUNDS = 3


def pairs(parts: Any) -> Arrays:
    """Return users, items and values of the training and test part of a split."""
    train, test = parts.train.histories, parts.test.targets
    return {
        "train_users": train.rows.astype(np.int32),
        "train_items": train.items,
        "train_values": train.values,
        "test_users": parts.test.queries.users[test.rows],
        "test_items": test.items,
        "test_values": test.values,
    }


def errors(predicted: Any, arrays: Arrays) -> dict[str, float]:
    """Compute RMSE, MAE and the share of pairs with a prediction."""
    is_predicted = np.isfinite(predicted)
    filled = np.where(is_predicted, predicted, arrays["train_values"].mean(dtype=np.float64))
    error = filled.astype(np.float64) - arrays["test_values"]
    return {
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mae": float(np.abs(error).mean()),
        "predicted_share": float(is_predicted.mean()),
    }


def run(options: Any) -> dict[str, Any]:
    """Measure every run."""
    from benchmarks.__main__ import load
    from segue.data.splits import SplitSettings, split

    source, data = load(options.source or ("ml-100k" if options.quick else None))
    arrays = pairs(split(data, SplitSettings(strategy="random", test=0.2, valid=0.0, seed=options.seed)))
    base = {
        "part": "ratings",
        "threads": options.threads,
        "seed": options.seed,
        "users": data.n_users,
        "items": data.n_items,
    }
    values = arrays["train_values"]
    base |= {"scale": [float(values.min()), float(values.max())]}
    found: dict[str, Any] = {"source": source, "load_before_percent": cpu_load(), "settings": base}
    found["data"] = {"train": len(values), "test": len(arrays["test_values"]), "hash": data.header.get("hash")}
    runs = [(name, library, base | own) for name, (library, own) in RUNS.items()]
    found["runs"] = {
        name: figures | errors(results["predicted"], arrays)
        for name, (figures, results) in run_alternating(1 if options.quick else ROUNDS, runs, arrays).items()
    }
    return found


def page(found: dict[str, Any]) -> str:
    """Format the tables."""
    settings, runs = found["settings"], found["runs"]
    lines = [
        f"# Speed of rating factorizations on {found['source']}",
        "",
        f"{found['data']['train']:,} training ratings, {found['data']['test']:,} test ratings; "
        f"{settings['threads']} threads, fastest of several processes.",
        "",
        "| library and model | fit, s | test RMSE | MAE | predicted | prepare, s | predict, s | import, s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {run['fit_seconds']:.2f} | {run['rmse']:.4f} | {run['mae']:.4f} | {run['predicted_share']:.2%} "
        f"| {run['prepare_seconds']:.2f} | {run['predict_seconds']:.2f} | {run['import_seconds']:.1f} "
        f"| {run['peak_mib']:,.0f} |"
        for name, run in runs.items()
    ]
    lines += [
        "",
        "| library and model | Segue | times as fast | RMSE difference (Segue − other) |",
        "| --- | --- | ---: | ---: |",
    ]
    lines += [
        f"| {other} | {own} | {runs[other]['fit_seconds'] / runs[own]['fit_seconds']:.2f} "
        f"| {runs[own]['rmse'] - runs[other]['rmse']:+.4f} |"
        for other, own in PAIRS
        if other in runs and own in runs
    ]
    lines += ["", *(f"* {name}: {own or 'defaults'}" for name, own in _settings()), *(f"* {note}" for note in NOTES)]
    return "\n".join(
        [*lines, f"* data hash {found['data']['hash']}", load_line(found), *describe_lines(found["machine"]), ""]
    )


def _settings() -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value}" for key, value in own["settings"].items())) for name, (_, own) in RUNS.items()
    ]
