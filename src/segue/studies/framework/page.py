"""Format the page of a study as Markdown, and its cells as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.studies.framework.study import StudyTable

__all__ = [
    "count_threads",
    "describe_data",
    "describe_settings",
    "format_cell",
    "format_page",
    "format_table",
    "origin_lines",
]


def format_page(
    record: Mapping[str, Any],
    tables: Sequence[StudyTable],
    figures: Sequence[Mapping[str, str]],
    origin: Sequence[str],
) -> str:
    """Format a page: question, answer, figures, tables, and how to repeat it.

    Args:
        record: content of ``study.json``.
        figures: ``title``, ``note``, and ``file`` relative to the page.
        origin: lines on the command, the machine and the date.
    """
    lines = [f"# {record['question']}", "", *_paragraphs(record["answer"]), "## Measurements", ""]
    for figure in figures:
        lines += [f"![{figure['title']}]({figure['file']})", ""]
        lines += [f"{figure['note']}.", ""] if figure["note"] else []
    for table in tables:
        lines += [f"**{table.title}**", "", *format_table(table), ""]
        lines += [table.note, ""] if table.note else []
    lines += [
        "## Method",
        "",
        " ".join(record["method"].split()),
        "",
        *(f"* {line}" for line in [*describe_data(record), describe_settings(record)]),
        *(f"* {line.removeprefix('* ')}" for line in origin),
        "",
    ]
    return "\n".join(lines)


def origin_lines(record: Mapping[str, Any]) -> list[str]:
    """Return the lines on the command, the machine and the date of ``study.json``."""
    return [
        f"Machine: {', '.join(f'{name} {value}' for name, value in record['machine'].items())}; "
        f"{count_threads(record)}; {record['date']}.",
        *([f"Command: `{record['command']}`"] if record["command"] else []),
    ]


def count_threads(record: Mapping[str, Any]) -> str:
    """Return the number of threads with its noun."""
    return f"{record['threads']} thread{'s' * (record['threads'] > 1)}"


def describe_data(record: Mapping[str, Any]) -> list[str]:
    """Return the lines on the data, the grid, and the readings of the test part."""
    grid, counts = record["grid"], record["counts"]
    is_quick = not (record["full"] or record["runs"])
    return [
        f"Data: {record['data']}, {counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events, "
        f"split `{record['split']}`, hash `{record['data_hash']}`.",
        f"Models: {', '.join(f'`{model}`' for model in grid['models'])}. "
        f"Values: {', '.join(str(value) for value in grid['values'])}. "
        f"Seeds: {', '.join(str(seed) for seed in grid['seeds'])}."
        + (" This is the quick grid; `--full` runs that of published results." if is_quick else ""),
        f"Readings of the test part recorded in all with this data and split: {record['test_readings']:,}.",
    ]


def describe_settings(record: Mapping[str, Any]) -> str:
    """Return the settings of the trainings, or the names and settings of the runs."""
    if record["runs"]:
        changed = "; ".join(f"`{model}`: `{' '.join(own)}`" for model, own in record["settings_of_runs"].items())
        runs = ", ".join(f"`{run}`" for run in record["runs"])
        return f"Runs: {runs}. Their settings that are not the defaults: {changed}."
    settings = [*record["common"], *record["grid"]["settings"], *record["overrides"]]
    return (
        f"Settings of all trainings, of which the last of equal names counts: `{' '.join(settings)}`; all others have "
        "their defaults."
    )


def format_table(table: StudyTable) -> list[str]:
    """Return the lines of a Markdown table.

    Columns without texts are aligned to the right.
    """
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    marks = ["---" if any(isinstance(cell, str) for cell in column) else "---:" for column in columns]
    rows = [[format_cell(cell, table.digits).replace("|", "\\|") for cell in row] for row in table.rows]
    return [_line(table.columns), _line(marks), *map(_line, rows)]


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in (f"- {sentence}", "")]


def format_cell(value: str | float | int | None, digits: int) -> str:
    """Return the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else value


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
