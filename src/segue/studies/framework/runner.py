"""Run a study and write its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segue.core.messages import arg
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.experiment.records.held_out_readings import list_readings
from segue.experiment.resources import describe_machine, thread_count
from segue.studies.framework.context import StudyContext, has_setting
from segue.studies.framework.studied_models import StudiedModel, changed_settings, open_runs
from segue.studies.framework.study import MODELS, Grid
from segue.studies.framework.study_folder import check_folder, folder_name, write_study
from segue.studies.framework.study_modules import StudyModule, hash_measurement, load_study, study_names

__all__ = ["StudyResult", "run_study"]

MIN_QUERIES = 20
"""Fewest test queries of a study, whose tables have means of parts of them."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        record: question, grid, cells, answer, data hash, machine, seconds, as in ``study.json``.
        folder: has ``study.json``, ``README.md`` and, with the extra ``report``, ``figures``.
    """

    record: dict[str, Any]
    folder: Path

    @property
    def answer(self) -> list[str]:
        """Sentences that answer the question."""
        return list(self.record["answer"])


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
        out: folder of the page; default: ``studies/STUDY-DATA`` among the runs, with ``-full`` if so, and a hash of
            models, seeds, settings and runs that are not those of the study.

    Raises:
        ValueError: an unknown study, model, setting or dataset; a model or runs that the study cannot use; too few test
            queries; or a folder with another study or other files.
    """
    module = load_study(study)
    _check_given(models, seeds, out)
    grid = module.FULL if full else module.DEFAULT
    studied: list[StudiedModel] = []
    if runs is not None:
        _check_runs(
            study, {"data": data, "models": models, "seeds": seeds, "overrides": tuple(overrides) or None}, runs
        )
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
    context = StudyContext(
        study, data, grid, log or (lambda _: None), overrides, hash_measurement(module), runs=studied
    )
    if not studied:  # all errors before the first training
        _check_models(study, module, grid.models)
        context.check_settings()
    _check_queries(context)
    about = _describe(study, module, context, full)
    is_changed = bool(studied or context.overrides or grid != (module.FULL if full else module.DEFAULT))
    folder = Path(out) if out else context.folder / folder_name(about, is_changed)
    check_folder(folder, about)
    cells = module.run(context)
    record = {
        **about,
        "cells": cells,
        "answer": [*module.answer(cells), describe_seeds(grid)],
        "test_readings": len(list_readings(context.parts)),
        "machine": describe_machine(),
        "threads": thread_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }
    write_study(folder, record)
    return StudyResult(record, folder)


def _describe(study: str, module: StudyModule, context: StudyContext, full: bool) -> dict[str, Any]:
    """Return the entries of the record that are known before the first training."""
    data, runs = context.data, context.runs
    return {
        "study": study,
        "question": module.QUESTION,
        "method": module.METHOD,
        "data": context.data_query,
        "data_hash": data.header.get("hash"),
        "counts": {"users": data.n_users, "items": data.n_items, "events": data.histories.size},
        "split": context.first_plan.split.strategy,
        "full": full,
        "grid": context.grid.describe(),
        "runs": [one.about["run"] for one in runs],
        "weights": [one.about["weights"] for one in runs],
        "settings_of_runs": {one.about["model"]: changed_settings(one.plan) for one in runs},
        "common": [] if runs else list(context.common),
        "overrides": list(context.overrides),
    }


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
    if others := [arg(key) for key, value in given.items() if value is not None]:
        raise ValueError(f"{', '.join(others)}: data, models, seeds and settings are those of the runs; leave it out")


def _check_models(study: str, module: StudyModule, models: Sequence[str]) -> None:
    """Check that the models have the settings that the study varies or measures.

    Raises:
        ValueError: one has not.
    """
    for model in models:
        for name in module.REQUIRES:
            if not has_setting(model, name):
                raise ValueError(
                    f"{arg('models')}: got {model}, which has no setting {name}; the study {study} needs it, expected "
                    f"models that have it, such as {', '.join(MODELS)}"
                )


def _check_queries(context: StudyContext) -> None:
    """Check that there are enough test queries for means by group.

    Raises:
        ValueError: there are too few.
    """
    if (count := len(context.parts.test)) < MIN_QUERIES:
        raise ValueError(
            f"{arg('data')}: {context.data_query} has {count:,} test quer{'y' if count == 1 else 'ies'} of "
            f"{context.data.n_users:,} users, expected at least {MIN_QUERIES} for a study"
        )


def describe_seeds(grid: Grid) -> str:
    """Say how many trainings of each model the answer rests on."""
    seeds = ", ".join(str(seed) for seed in grid.seeds)
    if len(grid.seeds) == 1:
        return f"These are measurements of one training per model and value (seed {seeds}); others may differ."
    return f"All of this is measured with {len(grid.seeds)} seeds ({seeds}) of each network."
