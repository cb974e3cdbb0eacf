"""State on a page how often the test part was read.

Runs record each reading of the test part. Pages written before they did cannot count them: at that time every training
printed test metrics beside those of validation, also while settings were chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from segue.experiment.paths import run_folders
from segue.experiment.records.held_out_readings import TEST_READINGS

__all__ = ["NOTES", "count_readings", "reading_lines"]

NOTES: dict[str, str] = {
    "ml-1m-sasrec": "Four configurations of `xlstm` were tried before this one, chosen by validation.",
    "ml-1m": (
        "This board was tuned again after its first publication: `xlstm` 0.3116 / 0.1815 and `sasrec` 0.2793 / 0.1591 "
        "(HR@10 / NDCG@10) were replaced after other settings, among them `mask_seen`, had been chosen by validation."
    ),
    "amazon-beauty": (
        "Three other configurations with attributes and one without were tried before that of `sasrec`, chosen by "
        "validation. `sasrec@ids` has the same settings, which were not tuned for ids alone; it was trained while "
        "other programs ran, so its time is an upper bound."
    ),
    "ml-1m-collaborative": (
        "`ials` was tuned again by validation after the first publication, where it had 0.0925 / 0.0466 (HR@10 / "
        "NDCG@10)."
    ),
    "ml-1m-among-100": (
        "`ials` was tuned again after the first publication, where it had 0.7270 / 0.4465 (HR@10 / NDCG@10)."
    ),
    "amazon-book": "`ials` was trained again with another solver after the first publication (NDCG@20 0.0857 in both).",
}
"""What is known about earlier readings, by the name of the page."""


def count_readings(folders: Iterable[Path]) -> dict[str, int]:
    """Count the recorded readings of the test part.

    Returns:
        ``runs`` and ``readings`` of these runs, and ``same_split``: the recorded readings of all runs with the same
        data and split as any of them.
    """
    own = [line for folder in folders for line in _read_lines(folder)]
    splits = {line["split"] for line in own}
    every = [line for folder in run_folders() for line in _read_lines(folder) if line["split"] in splits]
    return {"runs": len({line["run"] for line in own}), "readings": len(own), "same_split": len(every)}


def reading_lines(found: dict[str, Any], page: str, runs: int) -> list[str]:
    """Format how often the test part was read, as a line of a page.

    Args:
        found: the figures; without ``test_readings`` they are older than the records.
        page: the name of the page.
        runs: how many runs the page shows.
    """
    counts = found.get("test_readings")
    if counts is None:
        text = (
            f"readings of the test part: not counted. Each of the {runs:,} runs of this page was evaluated on it once, "
            "after training. Trainings with which settings were chosen printed test metrics as well"
        )
    else:
        text = (
            f"readings of the test part: {counts['readings']:,} by the {counts['runs']:,} runs of this page, and "
            f"{counts['same_split']:,} recorded in all with this data and split. Records begin with version 0.2"
        )
    return [f"* {text}. {NOTES.get(page, '')}".rstrip()]


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / TEST_READINGS
    return [json.loads(text) for text in path.read_text("utf-8").splitlines()] if path.is_file() else []
