"""Save trained models, and open those of runs and saved folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.run import Run
from segue.experiment.data import load_run_data, load_training_data
from segue.experiment.inference.argument_checks import FilePath, check_arguments
from segue.experiment.paths import bundle_folder, find_run
from segue.experiment.records.held_out_readings import read_readings

__all__ = ["open", "save"]


@check_arguments()
def save(model: TrainedModel, folder: FilePath) -> None:
    """Write a trained model, its catalog and the histories of its log to ``folder``.

    Nothing is pickled.

    Args:
        folder: a new or empty folder, or one that holds a saved model, which is replaced.

    Raises:
        ValueError: ``folder`` is a file, or holds anything else.
    """
    target = bundle.check_target(Path(folder))
    try:
        log = model.log
    except ValueError:  # a model that was opened without its log is saved without it
        log = None
    bundle.save(target, model, log)


@check_arguments()
def open(path: FilePath) -> TrainedModel:  # noqa: A001 - the name in the public API
    """Open a trained model.

    Args:
        path: a run such as ``"latest"``, its folder, or a folder that :func:`save` wrote.

    Raises:
        ValueError: there is no such run or folder, or a file in it is broken.
    """
    path = Path(path).expanduser()
    if (path / "bundle.json").exists():
        return bundle.load(path)
    run = find_run(path)
    return replace(
        bundle.load(bundle_folder(run)),
        training_history=tuple(Run(folder=run).history()),
        test_readings=read_readings(run),
        folder=run,
        load_log=lambda: load_run_data(run),
        load_train_log=lambda: load_training_data(run),
    )
