"""Write the report of runs or of a log as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from segue.core.config import parse, suggest
from segue.core.types import Dataset, Split
from segue.data.splits import SplitSettings, split
from segue.evaluation.simple_baselines import MAX_ITEMS
from segue.experiment.arguments import take_split_settings
from segue.experiment.audit.audit import audit_split, is_run, is_saved_model
from segue.experiment.baselines.measure import baselines
from segue.experiment.data import load_filtered
from segue.experiment.inference.argument_checks import (
    describe_value,
    is_sequence,
)
from segue.experiment.paths import find_run, run_folders, runs_folder
from segue.experiment.reporting.boards import collect_boards, short_name
from segue.experiment.reporting.describe_log import describe_log
from segue.experiment.reporting.run_files import read_run
from segue.reports.html.charts import check_chart_packages, save_charts
from segue.reports.html.headline import board_standfirst, board_title
from segue.reports.html.layout import Page, page_figures
from segue.reports.html.log_sections import log_page
from segue.reports.html.render import MARKER, write_report
from segue.reports.html.run_sections import board_part
from segue.reports.quantities import format_count

__all__ = [
    "DEFAULT_USERS",
    "ReportResult",
    "check_report_files",
    "name_runs",
    "report_runs_or_data",
    "write_data_report",
    "write_page",
    "write_run_report",
]

Log = Callable[[str], None]

DEFAULT_USERS = 8
"""Users of runs whose lists are shown."""

COUNTS = ("users", "items", "events", "training_events")
"""Counts of a record that are shown at the top of a page."""

MAX_EVENTS = 2_000_000
"""Events up to which a report on data measures the simple baselines."""


@dataclass(frozen=True)
class ReportResult:
    """Files of a report, and its main finding."""

    path: Path
    title: str
    summary: str
    figures: tuple[Path, ...]
    """Files of the figures, where a folder for them was given."""

    def __repr__(self) -> str:
        files = f" and {len(self.figures)} files of figures" if self.figures else ""
        return f"{self.title}{'' if self.title.endswith('?') else '.'} {self.summary}\n{self.path}{files}"

    def record(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        return {
            "page": str(self.path),
            "title": self.title,
            "summary": self.summary,
            "figures": [str(path) for path in self.figures],
        }


def report_runs_or_data(
    source: Any,
    out: Path | None,
    figures: Path | None,
    *,
    metric: str | None = None,
    users: int | None = None,
    log: Log | None = None,
    settings: Mapping[str, Any],
) -> ReportResult:
    """Write the report on runs or on data; see :func:`segue.report`."""
    settings = dict(settings)
    data_settings = take_split_settings(settings, "report")
    runs = [source] if isinstance(source, str | Path) and is_run(source) else []
    if is_sequence(source):
        runs = list(source)
        if wrong := [one for one in runs if not (isinstance(one, str | Path) and is_run(one))]:
            raise ValueError(f"source: got {describe_value(wrong[0])} in a list, expected names or folders of runs")
        if not runs:
            raise ValueError("source: got an empty list, expected at least one run")
    if runs:
        _reject_settings(settings)
        count = DEFAULT_USERS if users is None else users
        return write_run_report([find_run(run) for run in runs], out, figures, metric=metric, users=count, log=log)
    if isinstance(source, str | Path) and is_saved_model(source):
        raise ValueError(f"source: '{source}' is a saved model, which has no metrics; expected runs or data")
    for name, value in (("metric", metric), ("users", users)):
        if value is not None:
            raise ValueError(f"{name}: got {value!r} for data, expected runs; leave it out")
    if isinstance(source, Split):
        _reject_settings(settings)
        return write_data_report(source.train, source, out, figures, log=log)
    with name_runs(source):
        data = load_filtered(source, data_settings)
    parts = split(data, parse(SplitSettings, data_settings["split"], "split"))
    named = str(source) if isinstance(source, str | Path) else None
    return write_data_report(data, parts, out, figures, name=named, log=log)


@contextmanager
def name_runs(source: Any) -> Iterator[None]:
    """Add the names of runs to the error that a source of data is unknown."""
    try:
        yield
    except ValueError as error:
        names = [folder.name for folder in run_folders()]
        if not str(error).startswith("data: unknown source") or not names:
            raise
        raise ValueError(f"{error}; it is no run either{suggest(str(source), names)}") from None


def _reject_settings(settings: Mapping[str, Any]) -> None:
    """Reject settings for what is split already."""
    if settings:
        raise ValueError(f"{next(iter(settings))}: report uses settings only for data that it loads or splits itself")


def write_run_report(
    folders: Sequence[Path],
    out: Path | None,
    figures: Path | None,
    *,
    metric: str | None = None,
    users: int = DEFAULT_USERS,
    log: Log | None = None,
) -> ReportResult:
    """Write the report on runs; see :func:`report`."""
    if users < 0:
        raise ValueError(f"users: got {users}, expected a number of at least 0")
    path = check_report_files(out, figures, folders[0].name if len(folders) == 1 else "runs")
    return write_page(_build_run_page(folders, metric, users, log or _ignore), path, figures)


def _build_run_page(folders: Sequence[Path], metric: str | None, users: int, log: Callable[[str], None]) -> Page:
    """Build the page on runs.

    Runs of different data or protocols are in separate parts.

    Raises:
        ValueError: a run without values, a file that cannot be read, or an unknown metric.
    """
    distinct = list({folder.resolve(): folder for folder in folders}.values())
    boards = collect_boards([read_run(folder) for folder in distinct], metric, users, log)
    parts = [board_part(board, number, len(boards)) for number, board in enumerate(boards, 1)]
    titles = [part.title for part in parts]
    parts = [
        replace(part, title=f"{part.title} ({number})") if titles.count(part.title) > 1 else part
        for number, part in enumerate(parts, 1)
    ]
    warnings = tuple(dict.fromkeys(text for board in boards for text in board.warnings))
    if len(boards) == 1:
        board = boards[0]
        counts = board.models[board.ranking[0]].get("counts") or {}
        facts = tuple((name.replace("_", " "), format_count(counts[name])) for name in COUNTS if name in counts)
        return Page(board.title, board_title(board), board_standfirst(board), tuple(parts), warnings, facts)
    standfirst = (
        "The runs differ in data, split, part or what is ranked, so that figures are comparable within each group only."
    )
    title = f"{len(distinct)} runs in {len(boards)} groups"
    return Page("Runs", title, standfirst, tuple(parts), warnings)


def write_data_report(
    data: Dataset,
    parts: Split,
    out: Path | None,
    figures: Path | None,
    *,
    name: str | None = None,
    log: Log | None = None,
) -> ReportResult:
    """Write the report on a log and its split; see :func:`report`."""
    path = check_report_files(out, figures, Path((name or data.name).partition("?")[0]).stem or "data")
    return write_page(_describe_data(data, parts, name, log or _ignore), path, figures)


def _describe_data(data: Dataset, parts: Split, name: str | None, log: Log) -> Page:
    """Build the page on a log: description, audit and simple baselines."""
    source = data.name if name is None else name
    description = describe_log(replace(data, name=short_name(source)))
    notes = [f"Source: {source}"] if source != description.name else []
    found: dict[str, Any] = {"audit": audit_split(parts, data, name).record()}
    if data.n_items > MAX_ITEMS or data.histories.size > MAX_EVENTS:
        notes.append(
            f"Simple baselines are left out for more than {MAX_ITEMS:,} items or {MAX_EVENTS:,} events, where they "
            "take long; segue baselines measures them."
        )
    elif not parts.valid.targets.size:
        notes.append("Simple baselines are left out, because the split has no validation queries.")
    else:
        log(f"{data.name}: measuring the simple baselines on validation")
        found["baselines"] = baselines(parts).record()
    return log_page(replace(description, **found, notes=notes))


def _ignore(text: str) -> None:
    """Ignore a message."""


def check_report_files(out: Path | None, figures: Path | None, name: str) -> Path:
    """Return the file of the page, before anything is computed.

    Raises:
        ValueError: the file or folder cannot be written, is something else, or a package is missing.
    """
    check_chart_packages()
    if figures is not None and figures.exists() and not figures.is_dir():
        raise ValueError(f"figures: '{figures}' is a file, expected a folder")
    if out is None:
        return runs_folder() / "reports" / f"{_safe(name)}-{datetime.now():%Y%m%d-%H%M%S}.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out: got '{out}', expected a file that ends with .html")
    if out.is_dir():
        raise ValueError(f"out: '{out}' is a folder, expected a file such as {out / 'report.html'}")
    if out.exists() and MARKER.encode() not in out.read_bytes()[:4096]:
        raise ValueError(f"out: '{out}' exists and is not a report of Segue; name another file, or remove it")
    return out


def _safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def write_page(page: Page, path: Path, figures: Path | None) -> ReportResult:
    """Write a page, and its figures if a folder for them is given."""
    write_report(path, page)
    files = () if figures is None else tuple(save_charts(figures, page_figures(page)))
    return ReportResult(path, page.title, page.standfirst, files)
