"""Report runs, a finished study or data as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segue.experiment.audit.audit import is_run
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.experiment.reporting.report import ReportResult, check_report_files, report_runs_or_data, write_page
from segue.reports.html.layout import (
    Block,
    Cell,
    CodeBlock,
    ListBlock,
    Page,
    Paragraph,
    Part,
    Section,
    TableBlock,
)
from segue.reports.quantities import format_count
from segue.studies.framework.figures import study_figures
from segue.studies.framework.page import describe_data, describe_settings, format_cell, origin_lines
from segue.studies.framework.study import StudyTable
from segue.studies.framework.study_folder import find_study, is_study, list_studies, read_study
from segue.studies.framework.study_modules import load_study, study_names

__all__ = ["is_report_of_study", "report", "study_page", "write_study_report"]

Log = Callable[[str], None]


@check_arguments()
def report(
    source: Any,
    out: FilePath | None = None,
    *,
    figures: FilePath | None = None,
    metric: str | None = None,
    users: int | None = None,
    log: Log | None = None,
    **settings: Any,
) -> ReportResult:
    """Write a report on runs, a study or data as one HTML page that needs no network.

    Runs: metrics with intervals beside the simple baselines, paired tests, groups of users and items, training, cost,
    lists of some users with reasons, protocol, settings and model cards. Runs of different data or protocols are in
    separate parts of the page. The part that the runs were measured on is reported; on the test part, the baselines
    that the runs chose are measured again, which is recorded.

    A study: its answer, figures, tables, method and settings.

    Data: counts, long tail, lengths of histories, times, sessions, features, texts, the audit, and the simple baselines
    on validation where they are fast.

    Args:
        source: the name or folder of a run, or several in a list; that of a finished study; or a dataset, a split, or
            anything that :func:`segue.load` reads.
        out: the file of the page, which may be an earlier report; ``None``: a new file in ``runs/reports``.
        figures: a folder for every figure as PNG and SVG.
        metric: orders the models of runs; ``None``: the validation metric that they share.
        users: number of users of runs whose lists are shown and explained; 0: none; ``None``: 8.
        log: receives what is done, such as ``print``.
        settings: filters and settings of the split, such as ``min_user_events=5``, where ``source`` is loaded or split
            here.

    Raises:
        ValueError: an unknown run or metric, a run without values per user, a file that cannot be read, ``out`` is a
            file that is no report, or a package for charts is missing.
    """
    path, folder = (None if file is None else Path(file).expanduser() for file in (out, figures))
    if not isinstance(source, str | Path) or not is_report_of_study(source):
        return report_runs_or_data(source, path, folder, metric=metric, users=users, log=log, settings=settings)
    given = {**{"metric": metric, "users": users}, **settings}
    if unused := [name for name, value in given.items() if value is not None]:
        raise ValueError(f"{unused[0]}: not used for a study, which has its own; leave it out")
    return write_study_report(source, path, folder)


def is_report_of_study(source: str | Path) -> bool:
    """Return whether a report on ``source`` is that on a study; runs take precedence.

    Raises:
        ValueError: it is the key of a study, which may have several results.
    """
    if is_run(source) or is_study(source) or str(source) not in study_names():
        return not is_run(source) and is_study(source)
    results = [folder.name for folder in list_studies() if folder.name.startswith(f"{source}-")]
    expected = (
        f"one of its results: {', '.join(results)}" if results else f"its result, which segue study {source} makes"
    )
    raise ValueError(f"source: '{source}' is a study, expected {expected}")


def write_study_report(study: str | Path, out: Path | None = None, figures: Path | None = None) -> ReportResult:
    """Write the report on a finished study; see :func:`segue.report`.

    Args:
        study: its folder, or the name of its folder beside the runs.
    """
    folder = find_study(study)
    path = check_report_files(out, figures, folder.resolve().name)
    return write_page(study_page(read_study(folder)), path, figures)


def study_page(record: Mapping[str, Any]) -> Page:
    """Return the page on a study from the content of ``study.json``."""
    module, cells, grid = load_study(record["study"]), record["cells"], record["grid"]
    figures: list[Block] = [*study_figures(module, cells)]
    tables: list[Block] = [_table(table) for table in module.tables(cells)]
    command = [CodeBlock(record["command"], "command")] if record["command"] else []
    protocol = [*describe_data(record), describe_settings(record), origin_lines(record)[0]]
    answer = tuple(map(_plain, record["answer"]))
    sections = (
        Section("Answer", (ListBlock(answer),)),
        Section("Figures", tuple(figures)),
        Section("Tables", tuple(tables)),
        Section("Method", (Paragraph(_plain(" ".join(record["method"].split()))),)),
        Section("Reproduction", (ListBlock(tuple(map(_plain, protocol))), *command)),
    )
    standfirst = f"Measured on {record['data']} with {_join(grid['models'])}, {_count(grid['seeds'], 'seed')}."
    facts = tuple((name, format_count(count)) for name, count in record["counts"].items())
    parts = (Part("Study", tuple(section for section in sections if section.blocks)),)
    warnings = (
        ()
        if len(grid["seeds"]) > 1
        else ("One training per model and value: another seed may order them differently.",)
    )
    return Page("Study", record["question"], standfirst, parts, warnings, facts)


def _table(table: StudyTable) -> TableBlock:
    rows = tuple(tuple(Cell(_plain(format_cell(value, table.digits))) for value in row) for row in table.rows)
    texts = [any(isinstance(row[number], str) for row in table.rows) for number in range(len(table.columns))]
    first_numeric = texts.index(False) if False in texts else len(texts)
    return TableBlock(table.title, table.columns, rows, first_numeric, note=table.note)


def _plain(text: str) -> str:
    """Return Markdown without the marks of code."""
    return text.replace("`", "")


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(values: Sequence[Any], noun: str) -> str:
    return f"{len(values)} {noun}{'s' * (len(values) > 1)}"
