"""Read the files of runs, and group the runs that can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.files import read_json
from segue.experiment.compare_runs import average_results
from segue.experiment.paths import SETTINGS
from segue.experiment.plan import Plan
from segue.experiment.run_folder import METRICS, WARMTH, is_finished, read_run_plan
from segue.experiment.settings import RunSettings

__all__ = ["RunFiles", "SeededRuns", "average_by_model", "group_by_protocol", "read_run"]

VALUES = "values.parquet"
REQUIRED = (
    "model",
    "data",
    "seed",
    "data_hash",
    "comparison_key",
    "intervals",
    "protocol",
    "cost",
    "device",
    "warnings",
)
"""Entries of a record that a report shows."""


@dataclass(frozen=True, eq=False)
class RunFiles:
    """One finished run with values per query."""

    folder: Path
    plan: Plan
    record: dict[str, Any]
    values: pl.DataFrame
    """One row per query: the user's id and every metric."""
    warmth: pl.DataFrame | None
    history: tuple[dict[str, float], ...]
    card: str
    settings: str

    @property
    def protocol_key(self) -> tuple[Any, ...]:
        """What must be equal for runs to be compared.

        These are the data, its filters and split, what is ranked, and the part that was measured.
        """
        return self.record["data_hash"], self.record["comparison_key"], self.record["part"]

    @property
    def model_key(self) -> str:
        """Everything that determines the model but the seed, the device and the trackers."""
        return replace(self.plan, run=RunSettings()).fingerprint()


@dataclass(frozen=True, eq=False)
class SeededRuns:
    """Runs of one model that differ only in their seed, with their mean."""

    name: str
    """Name of the model on the page."""
    runs: tuple[RunFiles, ...]
    record: dict[str, Any]
    values: pl.DataFrame


def read_run(folder: Path) -> RunFiles:
    """Read the files of a run.

    Raises:
        ValueError: the run is not finished, was not evaluated, or a file cannot be read.
    """
    if not is_finished(folder):
        raise ValueError(f"{folder}: the run is not finished; resume it with: segue train --resume {folder}")
    record = read_json(folder / METRICS)
    missing = [key for key in REQUIRED if key not in record] if isinstance(record, dict) else list(REQUIRED)
    if missing:
        raise ValueError(f"{folder / METRICS}: expected the record of a run, it lacks {', '.join(missing)}")
    if record.get("part") is None or not record["intervals"]:
        raise ValueError(
            f"{folder.name}: the run has no metrics to report, because nothing was held out for validation; report a "
            "run with a validation part, or one of segue train --test"
        )
    if not (folder / VALUES).is_file():
        raise ValueError(f"{folder.name}: has no {VALUES} with the metrics per user, expected a run of segue train")
    values = _read_table(folder / VALUES)
    if unknown := [name for name in ("user", *record["intervals"]) if name not in values.columns]:
        raise ValueError(f"{folder / VALUES}: expected columns user and every metric, it lacks {', '.join(unknown)}")
    return RunFiles(
        folder,
        read_run_plan(folder),
        record,
        values,
        _read_table(folder / WARMTH) if (folder / WARMTH).is_file() else None,
        _read_history(folder / "history.jsonl"),
        _read_text(folder / "card.md"),
        _read_text(folder / SETTINGS),
    )


def group_by_protocol(runs: Sequence[RunFiles]) -> list[list[RunFiles]]:
    """Group runs that were evaluated on the same queries under the same protocol."""
    groups: dict[tuple[Any, ...], list[RunFiles]] = {}
    for run in runs:
        groups.setdefault(run.protocol_key, []).append(run)
    for group in groups.values():
        for other in group[1:]:
            if not group[0].values["user"].equals(other.values["user"], null_equal=True):
                raise ValueError(
                    f"{other.folder / VALUES}: its users differ from those of {group[0].folder / VALUES}, although "
                    "both runs have the same data and split; check the runs with segue verify"
                )
    return list(groups.values())


def average_by_model(runs: Sequence[RunFiles]) -> list[SeededRuns]:
    """Average the runs of each model over its seeds.

    A model is named by its key, and by its run where several models have the same key.
    """
    by_model: dict[str, list[RunFiles]] = {}
    for run in runs:
        by_model.setdefault(run.model_key, []).append(run)
    keys = [group[0].record["model"] for group in by_model.values()]
    found = []
    for group in by_model.values():
        key = str(group[0].record["model"])
        name = key if keys.count(key) == 1 else group[0].folder.name
        record, values = average_results([(dict(run.record), run.values, run.warmth) for run in group])
        found.append(SeededRuns(name, tuple(group), record, values))
    return found


def _read_table(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _read_text(path: Path) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from None


def _read_history(path: Path) -> tuple[dict[str, float], ...]:
    """Read the training history, which models without iterations do not have."""
    lines = []
    for number, text in enumerate(_read_text(path).splitlines(), 1):
        try:
            line: Mapping[str, Any] = json.loads(text)
            numbers = {name: float(value) for name, value in line.items() if isinstance(value, int | float)}
        except (json.JSONDecodeError, AttributeError):
            raise ValueError(f"{path}: line {number} is not a JSON object with numbers") from None
        if "step" in numbers:
            lines.append(numbers)
    return tuple(lines)
