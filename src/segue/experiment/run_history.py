"""List runs, find reusable ones, and link to the latest and the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segue.core.files import read_json
from segue.core.model import LOWER_IS_BETTER
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.paths import SETTINGS, run_folders, runs_folder
from segue.experiment.plan import Plan, read_plan
from segue.experiment.run_folder import METRICS, is_finished, update_link

__all__ = ["find_reusable_run", "list_runs", "mark_best"]

SELECTION_METRICS = ("ndcg@10", "rmse")
"""Validation metrics by which the best run is chosen: the first that both runs have."""


def list_runs() -> list[dict[str, Any]]:
    """Return one record per run, oldest first.

    The record of a finished run is ``metrics.json``; that of any other run contains only basic facts.
    """
    records = [_read_record(folder) for folder in run_folders()]
    best = {link.resolve().name for link in (runs_folder() / "best").glob("*") if link.is_symlink()}
    return sorted(
        ({**record, "best": record["run"] in best} for record in records), key=lambda record: str(record["date"])
    )


def _read_record(folder: Path) -> dict[str, Any]:
    known = {"run": folder.name, "finished": is_finished(folder)}
    if is_finished(folder):
        return {**read_json(folder / METRICS), **known}
    plan = read_plan(folder / SETTINGS)
    return {"model": plan.task.model, "data": plan.task.data, "seed": plan.run.seed, "date": "", **known}


def find_reusable_run(plan: Plan) -> Path | None:
    """Find the newest finished run of exactly this plan."""
    fingerprint = plan.fingerprint()
    for record in reversed(list_runs()):
        if record["finished"] and record["fingerprint"] == fingerprint:
            return runs_folder() / str(record["run"])
    return None


def mark_best(folder: Path, plan: Plan) -> bool:
    """Point ``latest`` to this run, and ``best/DATA`` if it is the best.

    Returns whether it is the best. Runs are compared by validation metrics, and only with the same data, split and
    ranking rules. If the rules are not the defaults, the link is ``best/DATA-HASH``, with a hash of the rules. A run
    with a limited number of users gets no link.
    """
    update_link(runs_folder() / "latest", folder)
    if plan.task.max_users is not None:
        return False
    record = read_json(folder / METRICS)
    name = Path(plan.task.data.partition("?")[0]).stem
    is_default = plan.filters == Filters() and plan.split == SplitSettings() and plan.evaluation.exclude_seen
    link = runs_folder() / "best" / (name if is_default else f"{name}-{plan.comparison_key()[:8]}")
    best = read_json(link / METRICS) if (link / METRICS).exists() else None
    is_comparable = best is not None and all(best.get(key) == record[key] for key in ("comparison_key", "data_hash"))
    if best is not None and is_comparable and _is_better(best, record):
        return False
    update_link(link, folder)
    return True


def _is_better(best: dict[str, Any], record: dict[str, Any]) -> bool:
    """Return whether the current best run is better than ``record``."""
    for metric in SELECTION_METRICS:
        before, now = best["valid"].get(metric), record["valid"].get(metric)
        if before is not None and now is not None:
            return bool(before < now if metric in LOWER_IS_BETTER else before > now)
    return False
