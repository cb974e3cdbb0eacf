"""Segue's factorisations of ratings beside those of Spark, LensKit, Cornac and Surprise, on one random split.

Four fifths of the ratings of MovieLens 1M train, and the same pairs of the last fifth are asked of everybody. Fitting
alone is timed, from a table in the library's own form in memory; each side runs in fresh processes, in turn with the
others, and the fastest counts. Errors are counted here, for every side by the same function; what a side leaves
unanswered gets the mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.machine import busy, told, undisturbed
from benchmarks.subprocess_runner import Arrays, in_turn

__all__ = ["AGAINST", "SIDES", "errors", "page", "pairs", "run"]

ROWS = {"width": 64, "sweeps": 10, "l2": 0.08, "l2_bias": 0.03}
"""Of ``als``, as a tenth of the training part has it."""

FEW = {"width": 32, "sweeps": 8, "l2": 0.08, "l2_bias": 0.03, "solver": "conjugate_gradient"}
"""Of ``als`` where time counts more than the last thousandth."""

STEPS = {"width": 64, "sweeps": 30, "learning_rate": 0.022, "decay": 0.95, "l2": 0.06, "l2_bias": 0.005}
"""Of ``svdpp``, as a tenth of the training part has it."""

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "Segue als": ("segue", {"model": "als", "settings": ROWS}),
    "Segue als, steps": ("segue", {"model": "als", "settings": ROWS | {"solver": "conjugate_gradient"}}),
    "Segue als, width 32": ("segue", {"model": "als", "settings": FEW}),
    "Segue svdpp": ("segue", {"model": "svdpp", "settings": STEPS}),
    "Spark ALS": ("spark", {"settings": {"rank": 64, "maxIter": 10, "regParam": 0.05}}),
    "LensKit BiasedMF": ("lenskit", {"settings": {"embedding_size": 64, "epochs": 10}}),
    "Cornac MF": ("cornac", {"settings": {"k": 64, "max_iter": 20, "learning_rate": 0.02, "lambda_reg": 0.05}}),
    "Surprise SVD": ("surprise", {"settings": {}}),
}
"""Library and settings of each side; what is not told is as the library has it."""

AGAINST = [
    *((name, own) for name in ("Spark ALS", "LensKit BiasedMF") for own in ("Segue als", "Segue als, steps")),
    *(
        (name, own)
        for name in ("Cornac MF", "Surprise SVD")
        for own in ("Segue als, steps", "Segue als, width 32", "Segue svdpp")
    ),
]
"""Which are compared."""

ROUNDS = 3


def pairs(parts: Any) -> Arrays:
    """Users, items and values of a split's training and of its test."""
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
    """Root of the mean squared error and mean absolute error, and the share of pairs that were answered."""
    answered = np.isfinite(predicted)
    filled = np.where(answered, predicted, arrays["train_values"].mean(dtype=np.float64))
    error = filled.astype(np.float64) - arrays["test_values"]
    return {
        "rmse": float(np.sqrt(np.square(error).mean())),
        "mae": float(np.abs(error).mean()),
        "answered": float(answered.mean()),
    }


def run(ask: Any) -> dict[str, Any]:
    """Figures of every side, and the ratios of their times."""
    from benchmarks.__main__ import load
    from segue.data.splits import SplitSettings, split

    source, data = load(ask.source or ("ml-100k" if ask.quick else None))
    arrays = pairs(split(data, SplitSettings(kind="random", test=0.2, valid=0.0, seed=ask.seed)))
    base = {"part": "ratings", "threads": ask.threads, "seed": ask.seed, "users": data.n_users, "items": data.n_items}
    values = arrays["train_values"]
    base |= {"scale": [float(values.min()), float(values.max())]}
    found: dict[str, Any] = {"source": source, "busy_before_percent": busy(), "settings": base}
    found["data"] = {"train": len(values), "test": len(arrays["test_values"]), "hash": data.header.get("hash")}
    sides = [(name, library, base | own) for name, (library, own) in SIDES.items()]
    found["sides"] = {
        name: figures | errors(left["predicted"], arrays)
        for name, (figures, left) in in_turn(1 if ask.quick else ROUNDS, sides, arrays).items()
    }
    return found


def page(found: dict[str, Any]) -> str:
    """The tables, as Markdown."""
    settings, sides = found["settings"], found["sides"]
    lines = [
        f"# Ratings of {found['source']}: factorisations beside each other",
        "",
        f"{found['data']['train']:,} ratings train, {found['data']['test']:,} are asked for; "
        f"{settings['threads']} threads, the fastest of fresh processes.",
        "",
        "| side | fit, s | test RMSE | MAE | answered | prepare, s | predict, s | import, s | peak MiB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {side['fit_seconds']:.2f} | {side['rmse']:.4f} | {side['mae']:.4f} | {side['answered']:.2%} "
        f"| {side['prepare_seconds']:.2f} | {side['predict_seconds']:.2f} | {side['import_seconds']:.1f} "
        f"| {side['peak_mib']:,.0f} |"
        for name, side in sides.items()
    ]
    lines += [
        "",
        "| beside | Segue's | times as fast | RMSE, Segue's less the other's |",
        "| --- | --- | ---: | ---: |",
    ]
    lines += [
        f"| {other} | {own} | {sides[other]['fit_seconds'] / sides[own]['fit_seconds']:.2f} "
        f"| {sides[own]['rmse'] - sides[other]['rmse']:+.4f} |"
        for other, own in AGAINST
        if other in sides and own in sides
    ]
    lines += ["", *(f"* {name}: {own or 'as it is'}" for name, own in _told())]
    return "\n".join([*lines, f"* data hash {found['data']['hash']}", undisturbed(found), *told(found["machine"]), ""])


def _told() -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} {value}" for key, value in own["settings"].items()))
        for name, (_, own) in SIDES.items()
    ]
