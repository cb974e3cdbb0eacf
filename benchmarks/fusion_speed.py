"""Cost of an epoch of ``fusion``, compared with its twin that knows items by ids alone.

Both have the same encoder, data and settings: those of the benchmark of cold items. They take turns; each repetition is
a new training, of which the first epoch is not counted. Costs are processor seconds of the optimizer steps of an epoch,
without validation and without the encoding of texts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cold_items import make_plans
from benchmarks.machine import cpu_load, describe_lines, load_line
from benchmarks.speed_ratios import Ratio, estimate_ratio, format_ratio
from benchmarks.table_rows import head_lines, row_line
from segue.core.run import Run
from segue.data.splits import split
from segue.experiment.data import load_data
from segue.experiment.plan import Plan
from segue.training.callbacks import Callback, TrainingState
from segue.training.train import train

__all__ = ["PAIRS", "page", "run"]

PAIRS = (("fusion", "sasrec"), ("two_tower", "two_tower@ids"))
"""A model that reads text, and its twin."""
TARGET = 1.3
"""Largest ratio that is aimed for."""
REPETITIONS = 5


@dataclass
class _EpochCosts(Callback):
    """Record the processor seconds of each epoch after the first."""

    seconds: list[float] = field(default_factory=list)
    started: float = 0.0

    def on_epoch_end(self, state: TrainingState) -> None:
        """Note the seconds since the end of the previous epoch."""
        now = time.process_time()
        if state.epoch > 1:
            self.seconds.append(now - self.started)
        self.started = now


def run(options: Any) -> dict[str, Any]:
    """Measure both models of each pair in turn."""
    import torch

    torch.set_num_threads(options.threads)
    source = options.source or ("simulated?users=150&items=60&seed=1" if options.quick else "ml-1m-text")
    repetitions = 1 if options.quick else REPETITIONS
    found: dict[str, Any] = {"load_before_percent": cpu_load(), "threads": options.threads, "source": source}
    found["pairs"] = {}
    for pair in PAIRS:
        costs: dict[str, list[float]] = {name: [] for name in pair}
        plans = make_plans(source, pair, draw=1)
        parts = {name: split(load_data(plan), plan.split) for name, plan in plans.items()}
        for number in range(repetitions):
            for name in pair if number % 2 == 0 else reversed(pair):
                costs[name].append(_measure_epoch(plans[name], parts[name], number))
        model, twin = pair
        found["pairs"][model] = {"twin": twin, "seconds": costs, "ratio": estimate_ratio(costs[model], costs[twin])}
        found["settings"] = found.get("settings", {}) | {model: _describe(plans[model])}
        found["data_hash"] = parts[model].train.header.get("hash")
    return found


def _measure_epoch(plan: Plan, parts: Any, seed: int) -> float:
    """Train for two epochs; return the processor seconds of the second."""
    costs = _EpochCosts()
    training = plan.training.model_copy(update={"epochs": 2})
    train(plan.task.model, plan.model, training, parts.train, Run(seed), callbacks=[costs])
    return costs.seconds[0]


def _describe(plan: Plan) -> dict[str, Any]:
    model, training = plan.model.model_dump(), plan.training.model_dump()
    names = ("backbone", "embedding_dim", "vector_dim", "max_length", "windows")
    return {name: model[name] for name in names if name in model} | {"batch_size": training["batch_size"]}


def page(found: dict[str, Any]) -> str:
    """Format the table."""
    lines = [
        "# Cost of an epoch with text, compared with ids alone",
        "",
        f"Training on {found['source']} with {found['threads']} thread(s). Both models of a pair have the same encoder "
        "and settings and take turns; a repetition is a new training, of which the second epoch is measured in "
        "processor seconds, without validation and the encoding of texts. The ratio is the geometric mean over the "
        "pairs of repetitions, with a 95 % interval (t, of the logarithms).",
        "",
        *head_lines(["model", "twin, ids alone", "seconds", "seconds of the twin", "ratio", f"at most {TARGET:g}"], 4),
    ]
    for name, pair in found["pairs"].items():
        own, other = (", ".join(f"{one:.2f}" for one in pair["seconds"][key]) for key in (name, pair["twin"]))
        lines.append(row_line([name, pair["twin"], own, other, format_ratio(pair["ratio"]), _outcome(pair["ratio"])]))
    for name, settings in found["settings"].items():
        lines += ["", f"`{name}`: {', '.join(f'`{key}={value}`' for key, value in settings.items())}"]
    lines += ["", f"* data hash {found['data_hash']}; no test part is read"]
    return "\n".join([*lines, load_line(found), *describe_lines(found["machine"]), ""])


def _outcome(ratio: Ratio) -> str:
    """Say whether the interval is below the aim."""
    low, high = ratio["low"], ratio["high"]
    if low is None or high is None:
        return "one repetition: not known"
    if high <= TARGET:
        return "yes"
    return "no" if low > TARGET else "within the interval"
