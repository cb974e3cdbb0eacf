"""Measure the model of a run again: with other metrics, on another machine, or to see that figures hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.config import assign, parse
from segue.core.files import read_json
from segue.data.splits import split
from segue.experiment.data import reopen
from segue.experiment.metrics import intervals, means, measure
from segue.experiment.paths import SETTINGS
from segue.experiment.plan import read_plan
from segue.experiment.run_folder import METRICS
from segue.experiment.settings import Evaluation

__all__ = ["evaluate_run"]


def evaluate_run(run: Path, part: str = "test", assignments: Iterable[str] = ()) -> dict[str, Any]:
    """Metrics of the run's model on its own split; the run's folder stays as it is.

    Args:
        part: ``test`` or ``valid``.
        assignments: of the evaluation's settings, such as ``ks=[1,20]``.
    """
    if part not in ("test", "valid"):
        raise ValueError(f"part: got '{part}', expected test or valid")
    plan = read_plan(run / SETTINGS)
    given = assign({"evaluation": Evaluation}, assignments)["evaluation"]
    plan = replace(plan, evaluation=parse(Evaluation, {**plan.evaluation.model_dump(), **given}, "evaluation"))
    trained = bundle.load(run / "bundle")
    parts = split(reopen(run), plan.split)
    measured = measure(trained.model, parts.test if part == "test" else parts.valid, plan)
    return {
        "run": run.name,
        "model": trained.key,
        "data": plan.task.data,
        "part": part,
        **means(measured),
        "intervals": intervals(measured),
        "facts": dict(measured.facts),
        "warnings": read_json(run / METRICS)["warnings"],
    }
