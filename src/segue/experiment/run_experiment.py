"""Train one model on one dataset, measure it, and write it all down."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from segue import __version__
from segue.core import bundle
from segue.core.files import write_json, write_text
from segue.core.run import Run, Track
from segue.core.types import Dataset, HeldOut, Split
from segue.data.splits import split
from segue.evaluation.evaluate import Evaluation as Measured
from segue.evaluation.evaluate import validator
from segue.evaluation.leakage import audit
from segue.experiment.data import check_inputs, load_data, tell_inputs, user_features
from segue.experiment.figures import draw
from segue.experiment.metrics import baseline, chosen_metrics, intervals, means, measure
from segue.experiment.model_card import card
from segue.experiment.plan import Plan
from segue.experiment.resources import Stages, machine, parameters, peak_memory, threads
from segue.experiment.run_folder import METRICS, seal
from segue.experiment.run_history import mark
from segue.training.train import train

__all__ = ["run_plan"]

Say = Callable[[str], None]


def run_plan(plan: Plan, folder: Path, *, say: Say, show: bool = False, command: str = "") -> dict[str, Any]:
    """Carry out ``plan`` in ``folder``, going on from its checkpoint where there is one.

    Args:
        say: gets the decisions, counts and warnings that a reader of the result should know.
        show: whether progress is drawn.
        command: what was typed, for the record.

    Returns:
        The record, as it stands in ``metrics.json``.
    """
    chosen_metrics(plan)
    check_inputs(plan, plan.split.tell_time)
    stages = Stages()
    with stages("data"):
        data = load_data(plan, say)
    with stages("split"):
        parts = split(data, plan.split)
    with stages("audit"):
        if faults := audit(parts):
            raise ValueError("\n".join(["the split leaks, nothing was trained:", *faults]))
    kept = parts.train.histories.size
    say(f"split: {plan.split.kind}: {kept:,} events train, {len(parts.valid):,} + {len(parts.test):,} questions")
    tell_inputs(plan, data, say)
    run = Run(plan.run.seed, folder, plan.run.device, _trackers(plan, folder, say if show else None), show)
    repeats = plan.evaluation.repeats == "keep"
    with stages("train"):
        validate = validator(parts.valid, metric=plan.metric, repeats=repeats) if len(parts.valid) else None
        model = train(plan.task.model, plan.model, plan.training, parts.train, run, validate)
    facts = _facts(plan, data, parts, folder)
    bundle.save(folder / "bundle", plan.task.model, model, parts.train, facts)
    with stages("evaluate"):
        test = measure(model, parts.test, plan)
        valid = measure(model, parts.valid, plan) if len(parts.valid) else None
    with stages("baseline"):
        beside = baseline(plan, parts)
    _values(parts.test, test, data).write_parquet(folder / "values.parquet")
    record = {
        **facts,
        **means(test),
        "intervals": intervals(test),
        "valid": {} if valid is None else means(valid),
        "facts": dict(test.facts),
        "baseline": beside,
        "cost": {
            "seconds": _seconds(stages, run),
            "peak_memory_bytes": peak_memory(),
            "parameters": parameters(model),
            "threads": threads(),
        },
        "machine": machine(),
        "command": command,
    }
    _finish(plan, folder, record, run)
    return record


def _facts(plan: Plan, data: Dataset, parts: Split, folder: Path) -> dict[str, Any]:
    header = data.header
    return {
        "run": folder.name,
        "model": plan.task.model,
        "data": plan.task.data,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": plan.run.seed,
        "device": plan.run.device,
        "segue": __version__,
        "recipe": plan.task.recipe,
        "warnings": list(dict.fromkeys([*parts.facts.get("warnings", []), *_warnings(plan)])),
        "counts": {
            "users": data.n_users,
            "items": data.n_items,
            "events": data.histories.size,
            "training_events": parts.train.histories.size,
            "test_questions": len(parts.test),
        },
        "audit": {"faults": []},
        "split": {key: value for key, value in parts.facts.items() if key not in ("settings", "warnings")},
        "data_hash": header.get("hash"),
        "data_folder": None if header.get("folder") is None else str(Path(header["folder"]).resolve()),
        "fingerprint": plan.fingerprint(),
        "board": plan.board(),
        "user_features": user_features(data),
    }


def _seconds(stages: Stages, run: Run) -> dict[str, float]:
    """Seconds by stage; training counts what was done before an interruption too."""
    told = sum(line.get("seconds", 0.0) + line.get("validation_seconds", 0.0) for line in run.history())
    seconds = {**stages.seconds, "train": max(told, stages.seconds["train"])}
    return {name: round(value, 3) for name, value in seconds.items()}


def _warnings(plan: Plan) -> list[str]:
    return [] if plan.task.limit is None else [f"limited to the first {plan.task.limit} users: not a result"]


def _values(held_out: HeldOut, measured: Measured, data: Dataset) -> pl.DataFrame:
    """One row per question: the user's id, or nothing for someone unknown, and every metric."""
    queries = held_out.queries
    users = pl.Series("user", data.users.decode(queries.users)).set(pl.Series(~queries.known), None)
    return pl.DataFrame({"user": users, **measured.values})


@dataclass(frozen=True)
class _Told:
    """Says what an epoch came to, where no bar can be drawn."""

    say: Say
    metric: str

    def log(self, step: int, values: Mapping[str, float]) -> None:
        keys = {"loss": "loss", self.metric: f"valid/{self.metric}"}
        if found := [f"{name} {values[key]:.4f}" for name, key in keys.items() if key in values]:
            self.say(f"epoch {step}: {', '.join(found)}")


def _trackers(plan: Plan, folder: Path, say: Say | None) -> tuple[Track, ...]:
    """TensorBoard where it is installed, and a line per epoch where someone reads but there is no terminal."""
    told = (_Told(say, plan.metric),) if say is not None and not sys.stderr.isatty() else ()
    if find_spec("tensorboard") is None:
        return told
    from segue.training.trackers import TensorBoard

    return (*told, TensorBoard(folder / "events"))


def _finish(plan: Plan, folder: Path, record: Mapping[str, Any], run: Run) -> None:
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    write_text(folder / "card.md", card(plan, record))
    draw(folder, plan.task.model, plan.metric, run.history())
    write_json(folder / METRICS, record)
    seal(folder)
    mark(folder, plan)
