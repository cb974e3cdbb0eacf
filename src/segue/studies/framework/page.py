"""Format the page of a study as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segue.studies.framework.study import StudyTable

__all__ = ["format_page", "format_table"]


def format_page(record: Mapping[str, Any], tables: Sequence[StudyTable], figures: Mapping[str, str]) -> str:
    """Format a page: question, answer, figures, tables, and how to repeat it.

    Args:
        record: content of ``study.json``.
        figures: file by title, relative to the page.
    """
    grid, counts = record["grid"], record["counts"]
    is_quick = not (record["full"] or record["runs"])
    lines = [f"# {record['question']}", "", *_paragraphs(record["answer"]), "## Measurements", ""]
    for title, file in figures.items():
        lines += [f"![{title}]({file})", ""]
    for table in tables:
        lines += [f"**{table.title}**", "", *format_table(table), ""]
        lines += [table.note, ""] if table.note else []
    lines += [
        "## Method",
        "",
        " ".join(record["method"].split()),
        "",
        f"Data: {record['data']}, {counts['users']:,} users, {counts['items']:,} items, {counts['events']:,} events, "
        f"split `{record['split']}`, hash `{record['data_hash']}`. Models: "
        f"{', '.join(f'`{model}`' for model in grid['models'])}. "
        f"Values: {', '.join(str(value) for value in grid['values'])}. "
        f"Seeds: {', '.join(str(seed) for seed in grid['seeds'])}. {_describe_settings(record)}",
        "",
        *(["This is the quick grid; `--full` runs that of published results.", ""] if is_quick else []),
        *([f"Command: `{record['command']}`", ""] if record["command"] else []),
        f"Machine: {', '.join(f'{name} {value}' for name, value in record['machine'].items())}; {record['threads']} "
        f"threads; {record['date']}.",
        "",
    ]
    return "\n".join(lines)


def _describe_settings(record: Mapping[str, Any]) -> str:
    if record["runs"]:
        return f"Runs, with their own settings: {', '.join(f'`{run}`' for run in record['runs'])}."
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
    rows = [[_format_cell(cell, table.digits) for cell in row] for row in table.rows]
    return [_line(table.columns), _line(marks), *map(_line, rows)]


def _paragraphs(sentences: Sequence[str]) -> list[str]:
    return [line for sentence in sentences for line in (f"- {sentence}", "")]


def _format_cell(value: str | float | int | None, digits: int) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) else value.replace("|", "\\|")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
