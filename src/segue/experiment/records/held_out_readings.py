"""Record every reading of a test part, and count the readings of a split.

A run stores its readings in ``test_readings.jsonl``, one JSON object per line. Those of saved models, and of
cross-validation on the command line, are stored in the folder of the runs. A model in memory holds its readings in
``TrainedModel.test_readings``, which are saved with it. Readings belong together if the data and the settings of the
split are the same.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segue.core.bundle import TrainedModel
from segue.core.types import HeldOut, Split
from segue.experiment.paths import SETTINGS, run_folders, runs_folder

__all__ = [
    "TEST_READINGS",
    "describe_reading",
    "format_readings",
    "list_readings",
    "read_readings",
    "record_model_reading",
    "record_reading",
]

TEST_READINGS = "test_readings.jsonl"

REQUIRED = {"time", "run", "command", "split"}
"""Entries of a record that are shown or compared."""


def describe_reading(name: str, data: Split | HeldOut, metrics: Mapping[str, float], command: str) -> dict[str, Any]:
    """Return the record of one reading.

    Args:
        name: the run, the saved model, or the key of a model in memory.
        data: the split, or its test part, which does not know the name of the data.
        metrics: means of the test metrics that were computed.
        command: what read the test part.
    """
    header = data.train.header if isinstance(data, Split) else {}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": name,
        "command": command,
        "data": data.train.name if isinstance(data, Split) else None,
        "data_hash": header.get("hash"),
        "split": (data.test if isinstance(data, Split) else data).test_id,
        "metrics": {metric: value if math.isfinite(value) else None for metric, value in metrics.items()},
    }


def record_reading(folder: Path, reading: Mapping[str, Any]) -> None:
    """Append one reading to the file in ``folder``, in a single write."""
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / TEST_READINGS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(reading) + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def record_model_reading(
    trained: TrainedModel, data: Split | HeldOut, metrics: Mapping[str, float], command: str
) -> None:
    """Record a reading on the model, and in the folder that the model was opened from."""
    folder = trained.folder
    is_run = folder is not None and (folder / SETTINGS).exists()
    name = trained.key if folder is None else folder.name if is_run else str(folder.resolve())
    reading = describe_reading(name, data, metrics, command)
    trained.test_readings.append(reading)
    if folder is not None:
        record_reading(folder if is_run else runs_folder(), reading)


def read_readings(folder: Path) -> list[dict[str, Any]]:
    """Read the records in ``folder``.

    Other lines are left out, such as the partial line of an interrupted write.
    """
    path = folder / TEST_READINGS
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and found.keys() >= REQUIRED:
            lines.append(found)
    return lines


def list_readings(parts: Split, folder: Path | None = None) -> list[dict[str, Any]]:
    """List the recorded readings of the test part of this split, oldest first.

    Args:
        folder: a run outside the folder of the runs, which is included.
    """
    folders = {path.resolve() for path in [runs_folder(), *run_folders(), *([] if folder is None else [folder])]}
    lines = [line for path in sorted(folders) for line in read_readings(path) if line["split"] == parts.test.test_id]
    return sorted(lines, key=lambda line: str(line["time"]))


def format_readings(readings: Sequence[Mapping[str, Any]], scope: str = "with this data and split") -> list[str]:
    """Describe how often and when the test part was read, one line per reading."""
    if not readings:
        return [f"test part: never read {scope}"]
    runs = len({line["run"] for line in readings})
    noun = "time" if len(readings) == 1 else "times"
    head = f"test part: read {len(readings):,} {noun} {scope}, by {runs:,} run{'s' * (runs > 1)}"
    return [head, *(f"  {line['time']}  {line['run']}  {line['command']}" for line in readings)]
