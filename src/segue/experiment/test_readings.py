"""Record every reading of the test part, and count the readings of a split.

A run stores its readings in ``test_readings.jsonl``, one JSON object per line; those of saved models are stored in the
folder of the runs. Readings belong together if the data and the settings of the split are the same.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segue.core.types import Split
from segue.experiment.paths import run_folders, runs_folder

__all__ = ["TEST_READINGS", "format_readings", "list_readings", "record_reading", "split_fingerprint"]

TEST_READINGS = "test_readings.jsonl"


def split_fingerprint(parts: Split) -> str:
    """Hash the data and the settings of a split."""
    header = parts.train.header
    facts = [header.get("hash"), header.get("max_users"), parts.metadata.get("settings"), parts.train.histories.size]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def record_reading(folder: Path, name: str, parts: Split, metrics: Mapping[str, float], command: str) -> None:
    """Append one reading to the file in ``folder``, in a single write.

    Args:
        name: the run, or the saved model.
        metrics: means of the test metrics that were computed.
        command: what read the test part.
    """
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": name,
        "command": command,
        "data": parts.train.name,
        "data_hash": parts.train.header.get("hash"),
        "split": split_fingerprint(parts),
        "metrics": dict(metrics),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = os.open(folder / TEST_READINGS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
        os.fsync(file)
    finally:
        os.close(file)


def list_readings(parts: Split, folder: Path | None = None) -> list[dict[str, Any]]:
    """List the recorded readings of the test part of this split, oldest first.

    Args:
        folder: a run outside the folder of the runs, which is included.
    """
    fingerprint = split_fingerprint(parts)
    folders = {path.resolve() for path in [runs_folder(), *run_folders(), *([] if folder is None else [folder])]}
    lines = [line for path in sorted(folders) for line in _read_lines(path / TEST_READINGS)]
    return sorted((line for line in lines if line.get("split") == fingerprint), key=lambda line: str(line["time"]))


def format_readings(readings: list[dict[str, Any]]) -> list[str]:
    """Describe how often and when the test part was read, one line per reading."""
    if not readings:
        return ["test part: never read with this data and split"]
    runs = len({line["run"] for line in readings})
    noun = "time" if len(readings) == 1 else "times"
    head = f"test part: read {len(readings):,} {noun} with this data and split, by {runs:,} run{'s' * (runs > 1)}"
    return [head, *(f"  {line['time']}  {line['run']}  {line['command']}" for line in readings)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a file; an interrupted write leaves a partial one."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
