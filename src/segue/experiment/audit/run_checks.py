"""Check runs for tuning on the test, sampled metrics and different boards.

A board is what makes figures comparable: the data, its filters, the split, and the items that are ranked. A *record* is
what :func:`segue.experiment.run_history.list_runs` returns of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

from segue.core.files import read_json
from segue.evaluation.simple_baselines import RANKING_BASELINES, RATING_MEANS
from segue.experiment.audit.findings import Finding
from segue.experiment.paths import SETTINGS, runs_folder
from segue.experiment.plan import Plan, read_plan

__all__ = [
    "RUN_CHECKS",
    "check_boards",
    "check_comparisons",
    "check_readings",
    "check_sampled",
    "check_tuning",
    "is_baseline",
]

RUN_CHECKS = ("test_readings", "tuning_on_test", "sampled_metrics", "mixed_boards")

MANY_RUNS = 20
"""Runs on one test part from which the best of them is chosen by the test as much as by its quality."""

STAGES_BEFORE_DATE = ("data", "split", "leakage check", "train")
"""Stages of a run before its date is recorded."""

Record = Mapping[str, Any]


def check_readings(readings: Sequence[Record]) -> list[Finding]:
    """Find repeated readings of the test part, and readings by many runs.

    Those of simple baselines do not count: they have no settings to choose.
    """
    results: dict[str, set[str]] = {}
    for line in readings:
        results.setdefault(str(line["run"]), set()).add(str(line.get("metrics")))
    found = []
    repeated = [run for run, metrics in results.items() if len(metrics) > 1]
    if repeated:
        found.append(
            Finding(
                "test_readings",
                "note",
                f"{len(repeated)} of {len(results)} runs read the test part more than once, with different metrics or "
                "settings of the evaluation",
                "report the reading that was planned, not the best one",
                len(repeated),
                {"run": repeated[0], "readings": sum(str(line["run"]) == repeated[0] for line in readings)},
            )
        )
    if len(results) > MANY_RUNS:
        found.append(
            Finding(
                "test_readings",
                "warning",
                f"{len(results)} runs have read this test part, {len(readings)} times in all; the best of so many is "
                "above its true value by chance",
                "choose on validation, and confirm the chosen one on events that no run has seen",
                len(results),
                {"run": next(iter(results))},
            )
        )
    return found


def is_baseline(reading: Record) -> bool:
    """Return whether a reading is that of a simple baseline, not of a run."""
    command = str(reading["command"]).replace(".", " ")
    return reading["run"] in (*RANKING_BASELINES, RATING_MEANS) and command in ("segue baselines", "segue compare")


def check_tuning(records: Sequence[Record], readings: Sequence[Record]) -> list[Finding]:
    """Find runs whose settings may have been chosen by the test part.

    Such a run began after a run of the same model with other settings had read the test part, and has read it itself.
    Runs of one comparison are planned together and do not count; neither do runs that differ in the seed only.
    """
    first_read: dict[str, str] = {}
    for line in sorted(readings, key=lambda one: str(one["time"])):
        first_read.setdefault(str(line["run"]), str(line["time"]))
    settings = {str(record["run"]): _model_settings(str(record["run"])) for record in records if record["finished"]}
    known = {run: values for run, values in settings.items() if run in first_read and values is not None}
    starts = {str(record["run"]): _start(record) for record in records if str(record["run"]) in known}
    together = _planned_together()
    suspects: dict[str, str] = {}
    for earlier, later in permutations(known, 2):
        begun, is_planned = starts[later], any({earlier, later} <= group for group in together)
        is_other = known[earlier]["name"] == known[later]["name"] and known[earlier] != known[later]
        if is_other and not is_planned and begun is not None and _time(first_read[earlier]) < begun:
            suspects.setdefault(later, earlier)
    if not suspects:
        return []
    later, earlier = next(iter(suspects.items()))
    return [
        Finding(
            "tuning_on_test",
            "warning",
            f"{len(suspects)} runs were trained after a run of the same model with other settings had been read on the "
            "same test part, so their settings may have been chosen by it",
            "choose settings on validation, without --test, and read the test part once for the chosen ones",
            len(suspects),
            {"run": later, "after": earlier, "model": known[later]["name"]},
        )
    ]


def _model_settings(run: str) -> dict[str, Any] | None:
    """Return the settings of a run that determine its model, without the seed.

    ``None`` if they cannot be read.
    """
    path = runs_folder() / run / SETTINGS
    try:
        values = read_plan(path).values()
    except (ValueError, OSError):
        return None
    return {"name": values["task"]["model"], **{group: values[group] for group in ("model", "training", "text")}}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _start(record: Record) -> datetime | None:
    """Return when a run began.

    That is its date, which is recorded after training, minus the stages before.
    """
    try:
        seconds = record["cost"]["seconds"]
        passed = sum(float(seconds.get(stage, 0.0)) for stage in STAGES_BEFORE_DATE)
        return _time(str(record["date"])) - timedelta(seconds=passed)
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _comparisons() -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the records of every comparison in the folder of the runs."""
    found = []
    for path in sorted((runs_folder() / "compare").glob("*/comparison.json")):
        try:
            models = read_json(path)["models"]
        except (ValueError, OSError, KeyError, TypeError):
            continue
        if isinstance(models, dict) and all(isinstance(one, dict) for one in models.values()):
            found.append((path.parent.name, models))
    return found


def _planned_together() -> list[set[str]]:
    return [{str(record.get("run")) for record in models.values()} for _, models in _comparisons()]


def check_sampled(records: Sequence[Record]) -> list[Finding]:
    """Find runs with sampled metrics.

    Pairs of runs are counted whose order differs from that by the metrics over the whole catalog.
    """
    names = {name for record in records for name in record.get("intervals", {}) if name.startswith("sampled_")}
    sampled = [record for record in records if any(name in record for name in names)]
    if not sampled:
        return []
    name = min(names, key=lambda one: (not one.startswith("sampled_ndcg"), one))
    full = name.removeprefix("sampled_")
    first = next(record for record in sampled if name in record)
    size = first.get("protocol", {}).get("sampled_candidates", "some")
    pairs = [
        (a, b)
        for a, b in combinations([record for record in sampled if name in record and full in record], 2)
        if _board(a) == _board(b)
    ]
    differing = [(a, b) for a, b in pairs if (a[name] - b[name]) * (a[full] - b[full]) < 0]
    text = (
        f"{len(sampled)} runs rank each target among {size} sampled items: {name} {first[name]:.4f} against {full} "
        f"{first.get(full, float('nan')):.4f} among all items"
    )
    example = {"run": first["run"]}
    if differing:
        text += f"; {len(differing)} of {len(pairs)} pairs of runs are in the other order"
        example = {"run": differing[0][0]["run"], "and": differing[0][1]["run"]}
    return [
        Finding(
            "sampled_metrics",
            "warning" if differing else "note",
            text,
            "report the metrics among all items; sampled ones only next to papers that have no others",
            len(sampled),
            example,
        )
    ]


def check_boards(records: Sequence[Record], is_compared: bool) -> list[Finding]:
    """Find runs whose figures are not comparable.

    Args:
        is_compared: whether the runs are compared with each other, which is an error; else they are listed together.
    """
    boards: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        boards.setdefault(_board(record), []).append(record)
    if len(boards) < 2:
        return []
    first, other = (runs[0] for runs in list(boards.values())[:2])
    sizes = ", ".join(str(len(runs)) for runs in boards.values())
    return [
        Finding(
            "mixed_boards",
            "error" if is_compared else "note",
            f"{len(records)} runs are on {len(boards)} boards ({sizes} runs), whose figures are not comparable: "
            + "; ".join(_describe_difference(first, other)),
            "compare runs of one board only; segue compare trains the others again under one protocol",
            len(records),
            {"run": first["run"], "and": other["run"]},
        )
    ]


def check_comparisons(data: str) -> list[Finding]:
    """Find stored comparisons on ``data`` of runs that are on different boards."""
    found = []
    for name, models in _comparisons():
        records = [record for record in models.values() if record.get("data") == data and "comparison_key" in record]
        found += [
            Finding(one.check, one.grade, f"comparison {name}: {one.text}", one.action, one.count, one.example)
            for one in check_boards(records, is_compared=True)
        ]
    return found


def _board(record: Record) -> tuple[Any, ...]:
    return record.get("comparison_key"), record.get("data_hash"), (record.get("counts") or {}).get("items")


def _describe_difference(first: Record, other: Record) -> list[str]:
    """Name what differs between the boards of two runs."""
    items = [(record.get("counts") or {}).get("items") for record in (first, other)]
    lines = [] if items[0] == items[1] else [f"{items[0]:,} and {items[1]:,} items"]
    if first.get("data_hash") != other.get("data_hash"):
        lines.append(f"data {first.get('data_hash')} and {other.get('data_hash')}")
    plans = [_read_plan(record) for record in (first, other)]
    if plans[0] is not None and plans[1] is not None:
        protocol = (
            "task.",
            "filters.",
            "split.",
            "evaluation.exclude_seen",
            "evaluation.items",
            "evaluation.warm_items",
        )
        texts = plans[0].diff(plans[1])
        lines += [text for text in texts if text.startswith(protocol) and not text.startswith("task.model")]
    return lines or ["their data, split or ranked items differ"]


def _read_plan(record: Record) -> Plan | None:
    path = Path(str(record.get("folder", runs_folder() / str(record["run"])))) / SETTINGS
    try:
        return read_plan(path)
    except (ValueError, OSError):
        return None
