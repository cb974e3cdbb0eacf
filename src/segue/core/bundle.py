"""A trained model, and the folder that stores it.

The folder contains the hash of every file; nothing is pickled: ``bundle.json`` (model key, settings, schema, hashes),
``arrays.safetensors``, ``items.parquet`` (ids, titles, ...), ``users.parquet`` (ids) and, if the log was saved too,
``histories.safetensors``.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from segue.core.config import parse
from segue.core.files import atomic_folder, load_arrays, read_json, save_arrays, sha256, write_json
from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.types import DataSchema, Dataset, Events, Feature, Vocab
from segue.version import __version__

__all__ = ["TrainedModel", "check_target", "create", "load", "save", "verify"]

FORMAT = 1

HISTORIES = "histories.safetensors"
FILES = {"bundle.json", "arrays.safetensors", "items.parquet", "users.parquet", HISTORIES}
"""Every file that a saved model may have."""


def _no_log() -> Dataset:
    raise ValueError("this model was stored without its interaction log")


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model with its catalog and, if available, its training log."""

    key: str
    model: Model
    items: Vocab
    users: Vocab
    catalog: pl.LazyFrame
    """One row per item code: ``id``, and ``title``, ``genres``, ... where known."""
    metadata: Mapping[str, Any]
    """Further facts, such as ``data`` and ``user_features``; after loading, the content of ``bundle.json``."""
    load_log: Callable[[], Dataset] = _no_log
    """Returns :attr:`log`; raises ``ValueError`` if it is not available."""
    load_train_log: Callable[[], Dataset] | None = None
    """Returns :attr:`train_log`, if that differs from :attr:`log`."""
    training_history: tuple[Mapping[str, Any], ...] = ()
    """One mapping per epoch or iteration of training, such as ``{"epoch": 1, "loss": 0.5}``."""

    @cached_property
    def log(self) -> Dataset:
        """The log whose histories recommendations continue by default.

        After ``segue.train`` it is the data that the model was trained on; of a run, all of the run's data, held-out
        events included.

        Raises:
            ValueError: the log is not available.
        """
        return self.load_log()

    @cached_property
    def train_log(self) -> Dataset:
        """The log that the model was trained on, without held-out events.

        Raises:
            ValueError: the log is not available.
        """
        return self.log if self.load_train_log is None else self.load_train_log()

    @property
    def changed_settings(self) -> dict[str, Any]:
        """Settings of the model that differ from its defaults, as JSON holds them."""
        config = self.model.config
        values = config.model_dump(mode="json")
        fields = type(config).model_fields
        return {name: value for name, value in values.items() if getattr(config, name) != fields[name].get_default()}

    def __repr__(self) -> str:
        return f"TrainedModel({', '.join(self._describe())})"

    def _repr_html_(self) -> str:
        return f"<code>{html.escape(repr(self))}</code>"

    def _describe(self) -> list[str]:
        settings = [f"{name}={value!r}" for name, value in self.changed_settings.items()]
        data = [f"data={self.metadata['data']!r}"] if self.metadata.get("data") else []
        epochs = [f"epochs={len(self.training_history)}"] if self.training_history else []
        return [repr(self.key), *settings, *data, *epochs, f"{len(self.users):,} users", f"{len(self.items):,} items"]


def create(key: str, model: Model, data: Dataset, metadata: Mapping[str, Any] | None = None) -> TrainedModel:
    """Combine ``model``, trained on ``data``, with the catalog and log of ``data``."""
    items = data.item_features
    catalog = pl.LazyFrame({"id": data.items.ids}) if items is None else items
    return TrainedModel(key, model, data.items, data.users, catalog, metadata or {}, lambda: data)


def check_target(folder: Path) -> Path:
    """Check that a model can be saved to ``folder`` and return the full path.

    Saving must not delete anything except a saved model.

    Raises:
        ValueError: ``folder`` is a file, the working directory, or holds something else.
    """
    target = folder.expanduser().resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"folder: '{folder}' is a file, expected a new or empty folder, or one with a saved model")
    if target == Path.cwd() or target in Path.cwd().parents:
        raise ValueError(f"folder: '{folder}' holds the working directory; name a new folder, such as '{folder}/model'")
    if target.is_dir():
        found = {path.name for path in target.iterdir()}
        others = sorted(found - FILES if "bundle.json" in found else found)
        if others:
            raise ValueError(
                f"folder: '{folder}' holds other files ({', '.join(others[:3])}{', ...' if len(others) > 3 else ''}), "
                "expected a new or empty folder, or one with a saved model"
            )
    return target


def save(folder: Path, trained: TrainedModel, log: Dataset | None = None) -> None:
    """Write a trained model to ``folder`` in one step.

    The histories of ``log`` are included if it is given.
    """
    with atomic_folder(folder) as fresh:
        save_arrays(fresh / "arrays.safetensors", trained.model.arrays())
        trained.catalog.collect().write_parquet(fresh / "items.parquet")
        pl.DataFrame({"id": trained.users.ids}).write_parquet(fresh / "users.parquet")
        about = {
            **{name: value for name, value in trained.metadata.items() if name != "log"},
            "format": FORMAT,
            "segue": __version__,
            "model": trained.key,
            "config": trained.model.config.model_dump(mode="json"),
            "schema": asdict(trained.model.schema),
            "id_types": {"users": trained.users.id_type, "items": trained.items.id_type},
        }
        if trained.training_history:
            about["training_history"] = [dict(line) for line in trained.training_history]
        if log is not None:
            about["log"] = _write_log(fresh, trained, log)
        about["sha256"] = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
        write_json(fresh / "bundle.json", about)


def load(folder: Path) -> TrainedModel:
    """Read a trained model from ``folder``.

    Raises:
        ValueError: a file is missing or broken, or the format is newer than this version of Segue.
    """
    metadata = read_json(folder / "bundle.json")
    if metadata["format"] != FORMAT:
        raise ValueError(f"{folder}: bundle format {metadata['format']}, this Segue reads {FORMAT}")
    kind = model_class(metadata["model"])
    config = parse(kind.Config, metadata["config"], f"{folder}/bundle.json: config")
    schema = _schema(metadata["schema"])
    model = kind(config, schema)
    model.restore(load_arrays(folder / "arrays.safetensors"))
    types = metadata.get("id_types", {})
    trained = TrainedModel(
        metadata["model"],
        model,
        _vocab(folder / "items.parquet", schema.n_items, types.get("items", "string")),
        _vocab(folder / "users.parquet", schema.n_users, types.get("users", "string")),
        pl.scan_parquet(folder / "items.parquet"),
        metadata,
        lambda: _read_log(folder, trained),
        training_history=tuple(metadata.get("training_history", ())),
    )
    return trained


def verify(folder: Path) -> list[str]:
    """List the files of a bundle that are missing or changed, one line each.

    The list is empty if all hashes match.
    """
    metadata = read_json(folder / "bundle.json")
    errors = []
    for name, expected in metadata["sha256"].items():
        path = folder / name
        if not path.exists():
            errors.append(f"{path}: missing")
        elif (found := sha256(path)) != expected:
            errors.append(f"{path}: sha256 {found}, expected {expected}")
    return errors


def _schema(values: Mapping[str, Any]) -> DataSchema:
    """Read a schema from JSON; older bundles list no features."""
    tuples: dict[str, Any] = {"actions": tuple(values["actions"])}
    for name in ("item_features", "user_features"):
        listed = [{**feature, "categories": tuple(feature["categories"])} for feature in values.get(name, [])]
        tuples[name] = tuple(Feature(**feature) for feature in listed)
    return DataSchema(**{**values, **tuples})


def _vocab(path: Path, size: int, id_type: str) -> Vocab:
    return Vocab(lambda: pl.read_parquet(path, columns=["id"])["id"], size, id_type)


def _write_log(folder: Path, trained: TrainedModel, log: Dataset) -> dict[str, Any]:
    """Write the histories of ``log`` and return their description.

    The users and items of ``log`` must be those of the model.

    Raises:
        ValueError: the log has other users or items.
    """
    if (len(log.users), len(log.items)) != (len(trained.users), len(trained.items)):
        raise ValueError(
            f"log: {len(log.users)} users and {len(log.items)} items, the model has {len(trained.users)} and "
            f"{len(trained.items)}"
        )
    columns = {name: column for name, column in log.histories.columns().items() if column.dtype.kind in "biuf"}
    save_arrays(folder / HISTORIES, {"offsets": log.histories.offsets, **columns})
    return {"name": log.name, "actions": list(log.actions), "target": log.target, "hash": log.header.get("hash")}


def _read_log(folder: Path, trained: TrainedModel) -> Dataset:
    about = trained.metadata.get("log")
    if about is None:
        raise ValueError(f"{folder}: this model was stored without its interaction log")
    arrays = load_arrays(folder / HISTORIES)
    known = {name: arrays.pop(name) for name in ("offsets", "items", "actions", "values", "times") if name in arrays}
    return Dataset(
        name=about["name"],
        users=trained.users,
        items=trained.items,
        histories=Events(**known, context=arrays),
        actions=tuple(about["actions"]),
        target=about["target"],
        item_features=trained.catalog,
        user_features=pl.scan_parquet(folder / "users.parquet"),
        header={"hash": about["hash"], "folder": str(folder)},
    )
