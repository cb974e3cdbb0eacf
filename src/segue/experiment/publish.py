"""Publish a trained model as an artifact that a service can load.

Artifacts are stored next to the runs, in ``artifacts`` under ``SEGUE_HOME``, and not inside them: the manifest of a run
fixes its files, whereas an artifact also depends on the installed engines.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from segue.core import bundle
from segue.core.bundle import TrainedModel
from segue.core.files import read_json, recover_interrupted_write
from segue.core.types import Events
from segue.experiment.data import load_run_data
from segue.experiment.paths import artifacts_folder, bundle_folder, find_click_folder, find_run
from segue.experiment.quality import is_rating_model, rating_note
from segue.experiment.run_folder import METRICS

__all__ = ["Engine", "find_served_folder", "publish", "publish_model", "publish_run", "publish_trained"]

OLD_MANIFEST = "publication.json"
"""Manifest of artifacts of an older format."""

Engine: TypeAlias = Literal["auto", "native", "onnx"]
Log = Callable[[str], None]


def _no_log(text: str) -> None:
    """Discard a message."""


def publish_run(
    run: Path,
    out: Path | None = None,
    *,
    engine: Engine = "auto",
    name: str | None = None,
    index_above: int | None = None,
    log: Log = _no_log,
) -> Path:
    """Build the artifact of a run, unless an intact one exists already.

    Args:
        run: folder of a finished run.
        out: folder of the artifact; ``None``: the folder named ``name`` in ``artifacts`` under ``SEGUE_HOME``.
        engine: what computes the scores; ``auto`` takes ONNX where it is available and ranks as the trained model
            does, and accepts an existing artifact with any engine.
        name: the model's name in requests; ``None``: the name of the run.
        index_above: number of items above which a factored model gets an approximate index; ``None``: the default.
        log: receives messages about progress and about what is missing.

    Returns:
        The folder of the artifact.

    Raises:
        ValueError: the run has no bundle or a damaged one, or the artifact cannot be built.
    """
    run = run.resolve()
    name = run.name if name is None else name
    folder = artifacts_folder() / name if out is None else out
    source = bundle_folder(run)
    if errors := bundle.verify(source):
        raise ValueError("\n".join(errors))
    trained = bundle.load(source)
    if index_above is None and _is_intact(folder, name, trained.metadata["sha256"]["arrays.safetensors"], engine):
        return folder
    if out is None:
        _remove_old_format(folder, log)
    log(f"exporting {run} to {folder}")
    facts = _run_metadata(run)
    if is_rating_model(trained.model):
        log(f"warning: {rating_note(trained.key)}")
    return publish_model(
        trained, _load_histories(run, log), folder, engine=engine, name=name, index_above=index_above, facts=facts
    )


def publish(
    source: str | Path,
    out: Path | None = None,
    *,
    engine: Engine = "auto",
    name: str | None = None,
    index_above: int | None = None,
    log: Log = _no_log,
) -> Path:
    """Build the artifact of a run or a saved model; see :func:`publish_run`.

    Args:
        source: name or folder of a run, or a folder that ``segue.save`` wrote.
    """
    folder = Path(source).expanduser()
    if not (folder / "bundle.json").exists():
        return publish_run(find_run(folder), out, engine=engine, name=name, index_above=index_above, log=log)
    if errors := bundle.verify(folder):
        raise ValueError("\n".join(errors))
    label = folder.resolve().name
    return publish_trained(bundle.load(folder), label, out, engine=engine, name=name, index_above=index_above, log=log)


def find_served_folder(source: str | Path) -> Path | None:
    """Return the folder of an artifact or a click-through model; ``None``: neither."""
    from segue.serving.artifacts.manifest import MANIFEST

    folder = Path(source).expanduser()
    return folder if (folder / MANIFEST).exists() else find_click_folder(source)


def publish_trained(
    trained: TrainedModel,
    label: str,
    out: Path | None = None,
    *,
    engine: Engine = "auto",
    name: str | None = None,
    index_above: int | None = None,
    log: Log = _no_log,
) -> Path:
    """Build the artifact of a trained model with the histories of its log.

    See :func:`publish_run`.

    Args:
        label: name of the default folder, where neither ``name`` nor ``out`` is given.
    """
    if is_rating_model(trained.model):
        log(f"warning: {rating_note(trained.key)}")
    try:
        histories = trained.log.histories
    except ValueError as error:
        log(f"warning: exported without histories; users are unknown and items have no neighbors: {error}")
        histories = None
    if out is None:
        out = artifacts_folder() / (name or label)
        _remove_old_format(out, log)
    return publish_model(trained, histories, out, engine=engine, name=name or out.name, index_above=index_above)


def publish_model(
    trained: TrainedModel,
    histories: Events | None,
    out: Path,
    *,
    engine: Engine = "auto",
    name: str | None = None,
    index_above: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Build the artifact of a model in memory; see :func:`publish_run`.

    Args:
        histories: one row per training user; ``None``: the service then knows no user by id and finds no neighbors.
        facts: metadata that the service reports, such as ``data`` and ``metrics``.
    """
    from segue.serving.artifacts.ann_index import ANN_THRESHOLD
    from segue.serving.artifacts.artifact import build_artifact

    build_artifact(
        out.name if name is None else name,
        trained,
        histories,
        out,
        engine=engine,
        metadata=facts,
        index_above=ANN_THRESHOLD if index_above is None else index_above,
    )
    return out


def _remove_old_format(folder: Path, log: Log) -> None:
    """Remove an artifact of another format from the artifacts folder.

    It can then be built again.

    Raises:
        ValueError: the folder holds something else.
    """
    from segue.serving.artifacts.manifest import MANIFEST

    if not folder.exists() or (folder / MANIFEST).exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / OLD_MANIFEST).exists():
        raise ValueError(
            f"{folder}: exists and is not a model artifact; name another folder: segue export RUN --out FOLDER"
        )
    log(f"{folder}: an artifact of an older format; building it again")
    shutil.rmtree(folder)


def _is_intact(folder: Path, name: str, arrays: str, engine: Engine) -> bool:
    """Check whether ``folder`` contains an intact artifact.

    It must be of this model, name and engine.
    """
    from segue.serving.artifacts.manifest import BUNDLE_ARRAYS, FORMAT, MANIFEST, Manifest, verify_artifact

    recover_interrupted_write(folder)
    if not (folder / MANIFEST).exists():
        return False
    try:
        if read_json(folder / MANIFEST).get("format") != FORMAT:
            return False
        manifest = Manifest.read(folder)
    except (AttributeError, ValueError):
        return False
    is_same = manifest.name == name and engine in ("auto", manifest.engine)
    return is_same and manifest.sha256.get(BUNDLE_ARRAYS) == arrays and not verify_artifact(folder)


def _load_histories(run: Path, log: Log) -> Events | None:
    """Load the whole histories of the run's data; ``None`` if the data is gone."""
    try:
        return load_run_data(run).histories
    except ValueError as error:
        log(f"warning: published without histories; users are unknown and items have no neighbors: {error}")
        return None


def _run_metadata(run: Path) -> dict[str, Any]:
    """Collect the metadata that a service reports about the model."""
    record = read_json(run / METRICS) if (run / METRICS).exists() else {}
    metrics = {
        name: value for name in record.get("intervals", {}) if isinstance(value := record.get(name), int | float)
    }
    known = {
        "data": record.get("data"),
        "trained": record.get("date"),
        "segue": record.get("segue"),
        "metrics": metrics,
        "metrics_part": record.get("part", "test") if metrics else None,
    }
    return {"run": run.name, **{key: value for key, value in known.items() if value not in (None, {})}}
