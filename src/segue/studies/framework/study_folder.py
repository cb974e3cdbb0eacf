"""The folder of a study: its name, its record and its page."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.core.files import read_json, write_json, write_text
from segue.core.messages import arg
from segue.experiment.paths import runs_folder
from segue.studies.framework.figures import study_figures, write_figures
from segue.studies.framework.page import format_page, origin_lines
from segue.studies.framework.study_modules import load_study, study_names

__all__ = [
    "STUDY",
    "check_folder",
    "find_study",
    "folder_name",
    "is_study",
    "list_studies",
    "read_study",
    "write_study",
]

STUDY = "study.json"
"""The file that makes a folder a study."""

TEXTS = ("question", "method", "counts", "common", "settings_of_runs")
"""Entries that do not tell two studies apart."""

ENTRIES = (
    *("study", "question", "method", "data", "data_hash", "counts", "split", "full", "grid", "runs", "weights"),
    *(
        "settings_of_runs",
        "common",
        "overrides",
        "cells",
        "answer",
        "test_readings",
        "machine",
        "threads",
        "date",
        "command",
    ),
)
"""Entries of a study's record."""


def folder_name(about: Mapping[str, Any], is_changed: bool) -> str:
    """Return the name of a study's folder.

    It ends with a hash of the models, seeds, settings and runs where these are not those of the study.
    """
    own = [str(about["data_hash"])[:8]] if Path(about["data"]).exists() else []  # there may be other files of that name
    text = json.dumps([about["grid"], about["overrides"], sorted(about["runs"]), sorted(about["weights"])])
    ends = [
        *(["full"] if about["full"] else []),
        *([hashlib.sha256(text.encode()).hexdigest()[:8]] if is_changed else []),
    ]
    return "-".join([about["study"], _file_name(about["data"]), *own, *ends])


def check_folder(folder: Path, about: Mapping[str, Any]) -> None:
    """Check that a folder is new or empty, or has the page of this study.

    A page of an earlier version of Segue, whose record has fewer entries, is written again.

    Raises:
        ValueError: it has that of another study, of other data, models, seeds or settings; or other files.
    """
    if not folder.exists():
        return
    if not (folder / STUDY).is_file():
        if any(folder.iterdir()):
            raise ValueError(f"{arg('out')}: {folder} holds other files, expected a new or empty folder, or a study")
        return
    earlier = read_json(folder / STUDY)
    if not isinstance(earlier, dict) or "study" not in earlier:
        raise ValueError(f"{folder / STUDY}: expected the record of a study; name another folder, or remove it")
    if other := [name for name, value in about.items() if name not in TEXTS and earlier.get(name, value) != value]:
        raise ValueError(
            f"{arg('out')}: {folder} has a study with other {', '.join(other)}; name another folder, or remove it"
        )


def read_study(folder: Path) -> dict[str, Any]:
    """Read the record of a study.

    Raises:
        ValueError: the file is damaged, or of a version of Segue with other entries.
    """
    path = folder / STUDY
    record = read_json(path)
    missing = [name for name in ENTRIES if name not in record] if isinstance(record, dict) else list(ENTRIES)
    if missing or record["study"] not in study_names():
        what = f"no {missing[0]}" if missing else f"the unknown study {record['study']}"
        raise ValueError(f"{path}: has {what}; expected the record of a study, which segue study writes: run it again")
    found: dict[str, Any] = record
    return found


def list_studies() -> list[Path]:
    """List the folders of finished studies beside the runs."""
    return sorted(path.parent for path in (runs_folder() / "studies").glob(f"*/{STUDY}"))


def is_study(text: str | Path) -> bool:
    """Return whether a text is the name or the folder of a finished study."""
    try:
        return bool(str(text)) and any((path / STUDY).is_file() for path in _places(text))
    except (OSError, ValueError):  # not a path, such as a long address of a database
        return False


def find_study(text: str | Path) -> Path:
    """Return the folder of a finished study.

    Args:
        text: the folder, or its name among the studies beside the runs.

    Raises:
        ValueError: there is none.
    """
    for path in _places(text):
        if (path / STUDY).is_file():
            return path
    raise ValueError(f"study: '{text}' is no finished study")


def _places(text: str | Path) -> list[Path]:
    return [Path(text).expanduser(), runs_folder() / "studies" / text]


def write_study(folder: Path, record: dict[str, Any]) -> None:
    """Write the record, the figures and the page of a study into a folder."""
    module, cells = load_study(record["study"]), record["cells"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / STUDY, record)
    figures = write_figures(folder, "figures/", study_figures(module, cells))
    write_text(folder / "README.md", format_page(record, module.tables(cells), figures, origin_lines(record)))


def _file_name(text: str) -> str:
    """Return a text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(text).stem if Path(text).suffix else text).strip("-")
