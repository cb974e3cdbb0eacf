"""Run a study and write its page."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from segue.core.files import write_json, write_text
from segue.core.messages import arg
from segue.core.registry import keys, load_module
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.experiment.resources import describe_machine, thread_count
from segue.studies.framework.context import COMMON, StudyContext
from segue.studies.framework.page import format_page
from segue.studies.framework.studied_models import StudiedModel, open_runs
from segue.studies.framework.study import Cell, Grid, StudyTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyModule", "StudyResult", "load_study", "run_study", "study_names"]

PACKAGE = "segue.studies"

Log = Callable[[str], None]


class StudyModule(Protocol):
    """A module of :mod:`segue.studies`.

    A study that can measure finished runs instead of training also defines ``ACCEPTS_RUNS = True``, and takes its
    models from :meth:`segue.studies.framework.context.StudyContext.studied_models`.
    """

    QUESTION: str
    """The question that the study answers, with a question mark."""
    METHOD: str
    """What is measured and how: one paragraph with the sources."""
    DEFAULT: Grid
    """Few values, few epochs, one seed: ten minutes on MovieLens 100K with two cores."""
    FULL: Grid
    """The grid of published results: more values, full trainings, three seeds."""

    def run(self, context: StudyContext) -> list[Cell]:
        """Measure every cell of the grid."""
        ...

    def tables(self, cells: Sequence[Cell]) -> list[StudyTable]:
        """Return the tables of the page."""
        ...

    def figures(self, cells: Sequence[Cell]) -> Mapping[str, Figure]:
        """Draw the figures of the page, by title."""
        ...

    def answer(self, cells: Sequence[Cell]) -> list[str]:
        """Answer the question in sentences that the measurements support."""
        ...


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        record: question, grid, cells, answer, data hash, machine, seconds, as in ``study.json``.
        folder: has ``study.json``, ``README.md`` and, with matplotlib, ``figures``.
    """

    record: dict[str, Any]
    folder: Path

    @property
    def answer(self) -> list[str]:
        """Sentences that answer the question."""
        return list(self.record["answer"])


def study_names() -> list[str]:
    """Return the keys of all studies."""
    return keys(PACKAGE)


def load_study(name: str) -> StudyModule:
    """Return a study.

    Raises:
        ValueError: the key is unknown; the message suggests the closest known one.
    """
    return cast("StudyModule", load_module(PACKAGE, name, "study"))


@check_arguments()
def run_study(
    study: str,
    data: str | None = None,
    *,
    models: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Sequence[str] = (),
    full: bool = False,
    runs: Sequence[FilePath] | None = None,
    log: Log | None = None,
    command: str = "",
    out: FilePath | None = None,
) -> StudyResult:
    """Run a study, continue it, or write its page again if all is measured.

    Args:
        study: its key.
        data: a source, file or folder, as for ``segue train --data``.
        models: in place of those of the grid.
        seeds: in place of those of the grid.
        overrides: settings ``key=value`` of all trainings.
        full: the grid of published results in place of the quick one.
        runs: finished runs, whose models are studied on the data and the split of the runs; nothing is trained. Not
            all studies can.
        log: receives what is trained and measured, such as ``print``.
        command: the command line, for the page.
        out: folder of the page; default: ``studies/STUDY-DATA`` among the runs, with ``-full`` if so.

    Raises:
        ValueError: an unknown study, model, setting or dataset; or runs that the study cannot use.
    """
    module = load_study(study)
    _check_given(models, seeds, out)
    grid = module.FULL if full else module.DEFAULT
    studied: list[StudiedModel] = []
    if runs is not None:
        _check_runs(study, {"data": data, "models": models, "seeds": seeds, "overrides": overrides}, runs)
        studied = open_runs(study, runs)
        models = list(dict.fromkeys(one.about["model"] for one in studied))
        seeds = sorted({one.plan.run.seed for one in studied})
        grid, data = replace(grid, settings=()), studied[0].plan.task.data
    if data is None:
        raise ValueError(f"{arg('data')}: missing, expected a source such as ml-100k, a file or a folder")
    grid = replace(
        grid,
        models=grid.models if models is None else tuple(models),
        seeds=grid.seeds if seeds is None else tuple(seeds),
    )
    source = hashlib.sha256(inspect.getsource(cast("Any", module)).encode()).hexdigest()
    context = StudyContext(study, data, grid, log or (lambda _: None), overrides, source, runs=studied)
    for model in () if studied else grid.models:  # all errors of settings before the first training
        context.plan(model)
    cells = module.run(context)
    record = {
        "study": study,
        "question": module.QUESTION,
        "method": module.METHOD,
        "data": data,
        "data_hash": context.data.header.get("hash"),
        "counts": {"users": context.data.n_users, "items": context.data.n_items, "events": context.data.histories.size},
        "split": context.first_plan.split.strategy,
        "full": full,
        "grid": grid.describe(),
        "runs": [one.about["run"] for one in studied],
        "common": [] if studied else list(COMMON),
        "overrides": list(overrides),
        "cells": cells,
        "answer": module.answer(cells),
        "machine": describe_machine(),
        "threads": thread_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }
    own = [str(record["data_hash"])[:8]] if Path(data).exists() else []  # there may be other files of that name
    names = [study, _file_name(data), *own, *(["full"] if full else []), *([_digest(studied)] if studied else [])]
    folder = Path(out) if out else context.folder / "-".join(names)
    write_study(folder, record)
    return StudyResult(record, folder)


def _check_given(models: Sequence[str] | None, seeds: Sequence[int] | None, out: FilePath | None) -> None:
    """Check that models and seeds are given once, and that the page can be written.

    Raises:
        ValueError: they are not, or it cannot.
    """
    for key, values in {"models": models, "seeds": seeds}.items():
        if values is not None and not len(values):
            raise ValueError(f"{arg(key)}: got none, expected at least one")
        if values is not None and len(set(values)) < len(values):
            raise ValueError(f"{arg(key)}: got {', '.join(map(str, values))}, expected each once")
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise ValueError(f"{arg('out')}: {out} is a file, expected a folder")


def _check_runs(name: str, given: Mapping[str, Any], runs: Sequence[Any]) -> None:
    """Check that the study can measure runs, and that they determine all the rest.

    Raises:
        ValueError: it cannot, there is no run, or something else is given.
    """
    able = [key for key in study_names() if getattr(load_study(key), "ACCEPTS_RUNS", False)]
    if name not in able:
        raise ValueError(
            f"{arg('runs')}: the study {name} trains its own models; runs can be given to {', '.join(able)}"
        )
    if not runs:
        raise ValueError(f"{arg('runs')}: got no run, expected at least one")
    if others := [arg(key) for key, value in given.items() if value]:
        raise ValueError(f"{', '.join(others)}: data, models, seeds and settings are those of the runs; leave it out")


def _digest(studied: Sequence[StudiedModel]) -> str:
    """Return a short hash of the studied runs."""
    text = " ".join(sorted(f"{one.about['run']} {one.about['weights']}" for one in studied))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def write_study(folder: Path, record: dict[str, Any]) -> None:
    """Write the record, the figures and the page of a study into a folder."""
    module, cells = load_study(record["study"]), record["cells"]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "study.json", record)
    names: dict[str, str] = {}
    if find_spec("matplotlib") is not None:
        from segue.reports.plots import to_svg

        for title, figure in module.figures(cells).items():
            names[title] = f"figures/{_file_name(title.lower())}.svg"
            write_text(folder / names[title], to_svg(figure) + "\n")
    write_text(folder / "README.md", format_page(record, module.tables(cells), names))


def _file_name(text: str) -> str:
    """Return a text as the name of a file."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(text).stem if Path(text).suffix else text).strip("-")
