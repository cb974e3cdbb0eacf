"""Audit a log, its split and its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.core import bundle
from segue.core.config import parse
from segue.core.files import read_json
from segue.core.types import Dataset, Split
from segue.data.splits import SplitSettings, split
from segue.evaluation.ranking import ExcludeSeen
from segue.experiment.arguments import take_split_settings
from segue.experiment.audit.findings import AuditReport, Finding
from segue.experiment.audit.log_checks import LOG_CHECKS, check_log
from segue.experiment.audit.run_checks import (
    RUN_CHECKS,
    check_boards,
    check_comparisons,
    check_readings,
    check_sampled,
    check_tuning,
    is_baseline,
)
from segue.experiment.audit.split_checks import SPLIT_CHECKS, check_split
from segue.experiment.data import load_filtered, load_run_data
from segue.experiment.inference.argument_checks import check_arguments, describe_value, is_sequence
from segue.experiment.paths import SETTINGS, bundle_folder, find_run, runs_folder
from segue.experiment.records.held_out_readings import list_readings, read_readings
from segue.experiment.run_folder import METRICS, read_run_plan
from segue.experiment.run_history import list_runs

__all__ = ["audit", "audit_runs", "audit_saved_model", "audit_split", "check_target", "is_run", "is_saved_model"]

Log = Callable[[str], None]


@check_arguments()
def audit(data: Any, *, log: Log | None = None, **settings: Any) -> AuditReport:
    """Check a log, its split and its runs for faults that make figures wrong.

    The checks are: repeated events, constant times, duplicate users; leaks from the future, targets in training,
    incomplete histories, validation targets in the test, targets that the order of the file decides, empty parts,
    targets that the ranking leaves out; readings of the test part, settings chosen by it, sampled metrics, and runs on
    different boards.

    Args:
        data: a dataset, or anything that :func:`segue.load` reads; a split; the name or folder of a run or of a saved
            model; or a list of runs, which are compared with each other.
        log: receives what is audited, such as ``print``.
        settings: filters and settings of the split, such as ``min_user_events=5`` or ``strategy="random"``, where
            ``data`` is loaded or split here.

    Returns:
        ``report.findings``, the worst first; ``report.is_clean``; ``report.exit_status`` is 1 if there is an error.

    Raises:
        ValueError: an unknown setting, or settings for a run or a split, which have their own.
    """
    data_settings = take_split_settings(settings, "audit")
    runs = [data] if isinstance(data, str | Path) and is_run(data) else []
    if is_sequence(data) and all(isinstance(one, str | Path) and is_run(one) for one in data):
        runs = list(data)
    is_saved = isinstance(data, str | Path) and is_saved_model(data)
    if settings and (runs or is_saved or isinstance(data, Split)):
        raise ValueError(f"{next(iter(settings))}: audit uses settings only for data that it loads or splits itself")
    if runs:
        return audit_runs([find_run(run) for run in runs], log)
    if is_saved:
        return audit_saved_model(Path(data).expanduser())
    if isinstance(data, Split):
        return audit_split(data, data.train)
    if is_sequence(data):
        raise ValueError(f"data: got {describe_value(data)}, expected runs in a list; audit other data one at a time")
    name = str(data) if isinstance(data, str | Path) else None
    if name is not None:
        check_target(name)
    loaded = load_filtered(data, data_settings)
    return audit_split(split(loaded, parse(SplitSettings, data_settings["split"], "split")), loaded, name)


def is_run(text: str | Path) -> bool:
    """Return whether a text is the name or the folder of a run."""
    return bool(str(text)) and any(_is_file(path / SETTINGS) for path in (_path(text), runs_folder() / text))


def is_saved_model(text: str | Path) -> bool:
    """Return whether a text is the folder of a saved model."""
    return bool(str(text)) and _is_file(_path(text) / "bundle.json")


def _path(text: str | Path) -> Path:
    return Path(text).expanduser()


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a path, such as a long address of a database
        return False


def check_target(target: str | Path) -> None:
    """Check that a path is that of something to audit.

    Raises:
        ValueError: there is nothing.
    """
    text = str(target)
    is_path = "/" in text.partition("?")[0] and "://" not in text and "*" not in text
    if is_path and not _exists(_path(text)) and not _exists(_path(text.partition("?")[0])):
        raise ValueError(
            f"audit: there is no run, saved model, file or folder '{text}'; 'segue runs' lists the runs, and "
            "'segue sources' the datasets known by name"
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # not a path; loading says what it is


def audit_split(parts: Split, data: Dataset, name: str | None = None, exclude_seen: ExcludeSeen = True) -> AuditReport:
    """Audit a log, its split, and the runs on the same data.

    Args:
        data: the whole log, or the training part where that is all there is.
        name: name of the data in the records of runs; ``None``: that of the dataset.
        exclude_seen: whether the evaluation removes items of the history from the ranking.
    """
    name = data.name if name is None else name
    found = [*check_log(data, bool(parts.metadata.get("is_ordered", True))), *check_split(parts, exclude_seen)]
    readings = [one for one in list_readings(parts) if not is_baseline(one)] if parts.test.test_id is not None else []
    records = [record for record in list_runs() if record["finished"] and _is_on(record, name, data)]
    found += [*_check_runs(records, readings), *check_boards(records, is_compared=False), *check_comparisons(name)]
    return AuditReport.of(name, found, [*LOG_CHECKS, *SPLIT_CHECKS, *RUN_CHECKS], _facts(parts, data, readings))


def _is_on(record: Mapping[str, Any], name: str, data: Dataset) -> bool:
    digest = data.header.get("hash")
    return record["data"] == name or (digest is not None and record["data_hash"] == digest)


def _check_runs(records: Sequence[Mapping[str, Any]], readings: Sequence[Mapping[str, Any]]) -> list[Finding]:
    return [*check_readings(readings), *check_tuning(records, readings), *check_sampled(records)]


def _facts(parts: Split, data: Dataset, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "users": data.n_users,
        "items": data.n_items,
        "events": data.histories.size,
        "split": parts.metadata.get("strategy", "given"),
        "validation_queries": len(parts.valid),
        "test_queries": len(parts.test),
        "test_readings": len(readings),
        "runs_that_read_the_test": len({line["run"] for line in readings}),
    }


def audit_runs(folders: Sequence[Path], log: Log | None = None) -> AuditReport:
    """Audit runs with their data and splits.

    Several runs are compared with each other.
    """
    records = [{**read_json(bundle_folder(folder).parent / METRICS), "folder": str(folder)} for folder in folders]
    reports = []
    for board in {(record["data_hash"], record["comparison_key"]): record for record in records}.values():
        folder = Path(board["folder"])
        if log is not None:
            log(f"{folder.name}: checking {board['data']}")
        data = load_run_data(folder)
        plan = read_run_plan(folder)
        reports.append(audit_split(split(data, plan.split), data, str(board["data"]), plan.evaluation.exclude_seen))
    found = [*check_boards(records, is_compared=True), *check_sampled(records)]
    every = [one for report in reports for one in report.findings]
    found += [one for one in every if one.check not in ("mixed_boards", "sampled_metrics") or len(folders) == 1]
    return AuditReport.of(
        ", ".join(folder.name for folder in folders),
        found,
        [check for report in reports for check in report.checks],
        reports[0].facts if len(reports) == 1 else {"boards": len(reports)},
    )


def audit_saved_model(folder: Path) -> AuditReport:
    """Audit the log that a saved model was trained on, and its readings of test parts."""
    trained, name = bundle.load(folder), str(folder.resolve())
    readings = [*trained.test_readings, *(line for line in read_readings(runs_folder()) if line["run"] == name)]
    checks, found = ["test_readings"], check_readings([{**line, "run": name} for line in readings])
    facts: dict[str, Any] = {"model": trained.key, "test_readings": len(readings)}
    try:
        data = trained.train_log
    except ValueError:  # a model can be saved without its log
        facts["log"] = "not available"
    else:
        checks, found = [*LOG_CHECKS, *checks], [*check_log(data), *found]
        facts |= {"users": data.n_users, "items": data.n_items, "events": data.histories.size}
    return AuditReport.of(name, found, checks, facts)
