"""A study with its full grid, as a page of results.

``--study`` names it, and ``--source`` the data; with ``--run``, trained runs are studied.

Trainings and measurements are kept as those of ``segue study``, so an interrupted part continues. The page has the
tables and the answer of the study, and its figures as SVG files beside it.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import Any

from benchmarks.machine import describe_lines
from segue.studies.framework.figures import study_figures, write_figures
from segue.studies.framework.page import count_threads, format_page
from segue.studies.framework.runner import describe_seeds, run_study
from segue.studies.framework.study import Grid
from segue.studies.framework.study_modules import load_study, study_names

__all__ = ["page", "page_name", "run"]

QUICK = "simulated?users=40&items=400&seed=1"


def run(options: Namespace, log: Callable[[str], None]) -> dict[str, Any]:
    """Run the study, and write its figures to ``--out``.

    Raises:
        ValueError: no study or both data and runs are given, or the study cannot use them.
    """
    if options.study is None:
        raise ValueError(f"--study: missing, expected one of {', '.join(study_names())}")
    runs = options.run.split(",") if options.run else None
    if runs and options.source:
        raise ValueError(f"--source: got {options.source} beside --run, whose data are those of the runs; leave it out")
    result = run_study(
        options.study,
        None if runs else options.source or (QUICK if options.quick else "ml-100k"),
        models=options.models.split(",") if options.models else None,
        overrides=["epochs=1"] if options.quick and not runs else [],
        full=not options.quick,
        runs=runs,
        log=log,
    )
    record = {name: value for name, value in result.record.items() if name not in ("machine", "date", "command")}
    found: dict[str, Any] = {"record": record}
    figures = study_figures(load_study(options.study), record["cells"])
    return {**found, "figures": write_figures(options.out, f"{page_name(found)}-", figures)}


def page_name(found: dict[str, Any]) -> str:
    """Return the name of the page: the study and its data."""
    return f"studies-{found['record']['study']}-{found['record']['data'].partition('?')[0]}"


def page(found: dict[str, Any]) -> str:
    """Format the page; tables and answer are made from the measurements."""
    record = found["record"]
    module, cells, grid = load_study(record["study"]), record["cells"], record["grid"]
    seeds = describe_seeds(Grid(tuple(grid["values"]), tuple(grid["seeds"])))
    record = {**record, "answer": [*module.answer(cells), seeds]}
    origin = [count_threads(record), *describe_lines(found["machine"])]
    return format_page(record, module.tables(cells), found["figures"], origin)
