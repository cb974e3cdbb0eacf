"""List runs, find reusable ones, and link to the latest and the best."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from segue.core.files import read_json
from segue.core.model import LOWER_IS_BETTER
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.paths import SETTINGS, run_folders, runs_folder
from segue.experiment.plan import Plan, read_plan
from segue.experiment.records.held_out_readings import read_readings
from segue.experiment.run_folder import METRICS, is_finished, update_link

__all__ = ["find_reusable_run", "list_runs", "mark_best"]

SELECTION_METRICS = ("ndcg@10", "rmse")
"""Validation metrics by which the best run is chosen: the first that both runs have."""

REQUIRED = ("model", "data", "seed", "date", "device", "fingerprint", "valid", "cost")
"""Entries that the record of every finished run has."""


def list_runs() -> list[dict[str, Any]]:
    """Return one record per run, oldest first.

    The record of a finished run is ``metrics.json``; that of any other run contains only basic facts. Both count the
    ``test_readings``.
    A run with a file that cannot be read counts as not finished, and its record has an ``error`` that names the file.
    """
    records = [_read_record(folder) for folder in run_folders()]
    best = {link.resolve().name for link in (runs_folder() / "best").glob("*") if link.is_symlink()}
    return sorted(
        ({**record, "best": record["run"] in best} for record in records), key=lambda record: str(record["date"])
    )


def _read_record(folder: Path) -> dict[str, Any]:
    """Read the record of one run; a file that cannot be read is named under ``error``."""
    known = {"run": folder.name, "finished": is_finished(folder), "test_readings": len(read_readings(folder))}
    error = None
    if known["finished"]:
        path = folder / METRICS
        try:
            record = read_json(path)
            missing = [key for key in REQUIRED if key not in record] if isinstance(record, dict) else list(REQUIRED)
            if not missing:
                return {**record, **known}
            error = f"{path}: expected a record of a run, it lacks {', '.join(missing)}"
        except (ValueError, OSError) as problem:
            error = _name_file(path, problem)
    basic: dict[str, Any] = {"model": "", "data": "", "seed": "", "date": ""}
    try:
        plan = read_plan(folder / SETTINGS)
        basic |= {"model": plan.task.model, "data": plan.task.data, "seed": plan.run.seed}
    except (ValueError, OSError) as problem:
        error = error or _name_file(folder / SETTINGS, problem)
    return {**basic, **known, **({} if error is None else {"finished": False, "error": error})}


def _name_file(path: Path, problem: Exception) -> str:
    text = str(problem).splitlines()[0]
    return text if str(path) in text else f"{path}: {text}"


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
    is_default = plan.filters == Filters() and plan.split == SplitSettings()
    is_default = is_default and plan.evaluation.exclude_seen is True
    is_default = is_default and plan.evaluation.items == "all"
    link = runs_folder() / "best" / (name if is_default else f"{name}-{plan.comparison_key()[:8]}")
    best = None
    with suppress(ValueError, OSError):  # a broken record is replaced
        found = read_json(link / METRICS)
        best = found if isinstance(found, dict) else None
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
