"""The history of runs, read from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segue.core.files import read_json
from segue.core.model import LESS_IS_BETTER
from segue.data.filters import Filters
from segue.data.splits import SplitSettings
from segue.experiment.paths import SETTINGS, run_folders, runs_folder
from segue.experiment.plan import Plan, read_plan
from segue.experiment.run_folder import METRICS, finished, point

__all__ = ["listed", "mark", "reusable"]

CHOOSERS = ("ndcg@10", "rmse")


def listed() -> list[dict[str, Any]]:
    """One record per run, oldest first: ``metrics.json`` of a finished one, what is known of another."""
    records = [_record(folder) for folder in run_folders()]
    best = {link.resolve().name for link in (runs_folder() / "best").glob("*") if link.is_symlink()}
    return sorted(
        ({**record, "best": record["run"] in best} for record in records), key=lambda record: str(record["date"])
    )


def _record(folder: Path) -> dict[str, Any]:
    known = {"run": folder.name, "finished": finished(folder)}
    if finished(folder):
        return {**read_json(folder / METRICS), **known}
    plan = read_plan(folder / SETTINGS)
    return {"model": plan.task.model, "data": plan.task.data, "seed": plan.run.seed, "date": "", **known}


def reusable(plan: Plan) -> Path | None:
    """The newest finished run of exactly this plan, whose data has not changed since it was prepared."""
    wanted = plan.fingerprint()
    for record in reversed(listed()):
        if record["finished"] and record["fingerprint"] == wanted:
            return runs_folder() / str(record["run"])
    return None


def mark(folder: Path, plan: Plan) -> bool:
    """Let ``latest`` lead to this run, and ``best/<data>`` if no run did better; whether it is the best.

    Runs are chosen by validation, and only among those with the same data, split and rules of ranking. Under other
    rules than the usual ones the link is ``best/<data>-<hash of the rules>``; a run limited to some users has none.
    """
    point(runs_folder() / "latest", folder)
    if plan.task.limit is not None:
        return False
    record = read_json(folder / METRICS)
    name = Path(plan.task.data.partition("?")[0]).stem
    usual = plan.filters == Filters() and plan.split == SplitSettings() and plan.evaluation.repeats == "remove"
    link = runs_folder() / "best" / (name if usual else f"{name}-{plan.board()[:8]}")
    held = read_json(link / METRICS) if (link / METRICS).exists() else None
    comparable = held is not None and all(held[key] == record[key] for key in ("board", "data_hash"))
    if held is not None and comparable and _better(held, record):
        return False
    point(link, folder)
    return True


def _better(held: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether the run that holds the place did better on validation, by the first of ``CHOOSERS`` that both have."""
    for metric in CHOOSERS:
        before, now = held["valid"].get(metric), record["valid"].get(metric)
        if before is not None and now is not None:
            return bool(before < now if metric in LESS_IS_BETTER else before > now)
    return False
