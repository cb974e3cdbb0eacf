"""A trained model, and the folder that stores it.

The folder contains the hash of every file; nothing is pickled: ``bundle.json`` (model key, settings, schema, hashes),
``arrays.safetensors``, ``items.parquet`` (ids, titles, ...), ``users.parquet`` (ids) and, where they
exist, ``text.safetensors`` (what text encoders learned), ``histories.safetensors`` (the log), and
``knowledge.safetensors`` with ``entities.parquet`` (the knowledge graph).
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import polars as pl

from segue.core.config import Settings, parse
from segue.core.events import check_codes
from segue.core.examples.fields import Field
from segue.core.files import (
    atomic_folder,
    check_regular_file,
    find_damage,
    load_arrays,
    read_checked_json,
    save_arrays,
    sha256,
    write_checked_json,
)
from segue.core.knowledge.knowledge import Knowledge
from segue.core.memory_check import check_not_forked
from segue.core.model import Model
from segue.core.registry import model_class
from segue.core.types import DataSchema, Dataset, Events, Feature, FeatureKind, TextEncoding, Vocab
from segue.core.vocab import check_id_table, read_ids
from segue.version import __version__

__all__ = [
    "TrainedModel",
    "check_target",
    "create",
    "load",
    "read_schema",
    "read_text_encodings",
    "save",
    "verify",
    "write_text_encodings",
]

FORMAT = 2
"""Version of the layout. In format 1, ``bundle.json`` has no checksum."""

HISTORIES = "histories.safetensors"
ARRAYS = "arrays.safetensors"
TEXT, USER_TEXT = "text.safetensors", "user_text.safetensors"
KNOWLEDGE, ENTITIES = "knowledge.safetensors", "entities.parquet"
REQUIRED = (ARRAYS, "items.parquet", "users.parquet")
FILES = {"bundle.json", *REQUIRED, HISTORIES, TEXT, USER_TEXT, KNOWLEDGE, ENTITIES}
"""Every file that a saved model may have."""

KNOWLEDGE_ARRAYS = ("heads", "relation_codes", "tails", "item_entities")

MAX_MISSING_BYTES = 2_000_000
"""Size of arrays that may be missing in a file before a model is created to name them."""


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
    test_readings: list[dict[str, Any]] = field(default_factory=list)
    """One mapping per evaluation on the test part of a split; ``segue.evaluate`` adds it, ``segue.save`` stores it."""
    text_encodings: tuple[TextEncoding, ...] = ()
    """How the text vectors of the catalog were computed, so that new items are encoded the same way."""
    user_text_encodings: tuple[TextEncoding, ...] = ()
    """How the text vectors of the user features were computed, likewise."""
    knowledge: Knowledge | None = None
    """Facts about the items, for explanations by paths; ``None``: there are none."""
    folder: Path | None = None
    """The run or the saved model that this model was opened from; ``None``: it was trained in this process."""

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
    def log_has_held_out(self) -> bool:
        """Whether the log of a saved model holds events that were held out."""
        return bool(self.metadata.get("log", {}).get("has_held_out"))

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
    return TrainedModel(
        key,
        model,
        data.items,
        data.users,
        catalog,
        metadata or {},
        lambda: data,
        text_encodings=data.text_encodings,
        user_text_encodings=data.user_text_encodings,
        knowledge=data.knowledge,
    )


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
            **{name: value for name, value in trained.metadata.items() if name not in ("log", "text", "knowledge")},
            "format": FORMAT,
            "segue": __version__,
            "model": trained.key,
            "config": trained.model.config.model_dump(mode="json"),
            "schema": asdict(trained.model.schema),
            "id_types": {"users": trained.users.id_type, "items": trained.items.id_type},
        }
        if trained.training_history:
            about["training_history"] = [dict(line) for line in trained.training_history]
        if trained.test_readings:
            about["test_readings"] = [dict(line) for line in trained.test_readings]
        if trained.text_encodings:
            about["text"] = write_text_encodings(fresh / TEXT, trained.text_encodings)
        if trained.user_text_encodings:
            about["user_text"] = write_text_encodings(fresh / USER_TEXT, trained.user_text_encodings)
        if trained.knowledge is not None:
            about["knowledge"] = _write_knowledge(fresh, trained.knowledge)
        if log is not None:
            about["log"] = _write_log(fresh, trained, log)
        about["sha256"] = {path.name: sha256(path) for path in sorted(fresh.iterdir())}
        write_checked_json(fresh / "bundle.json", about)


def load(folder: Path) -> TrainedModel:
    """Read a trained model from ``folder`` after checking the hash of every file.

    Raises:
        ValueError: a file is missing, modified or malformed, or the format is newer than this version of Segue; the
            message names the file.
    """
    check_not_forked("load a model")
    path = folder / "bundle.json"
    metadata = _read_metadata(path)
    if errors := find_damage(folder, metadata["sha256"]):
        raise ValueError("\n".join(errors))
    kind = model_class(metadata["model"])
    config = parse(kind.Config, metadata["config"], f"{path}: config")
    try:
        schema = read_schema(metadata["schema"])
        types = metadata.get("id_types", {})
        items = _vocab(folder / "items.parquet", schema.n_items, types.get("items", "string"))
        users = _vocab(folder / "users.parquet", schema.n_users, types.get("users", "string"))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: malformed: {error!r}") from None
    catalog = pl.scan_parquet(folder / "items.parquet")
    return TrainedModel(
        metadata["model"],
        restore_model(_create_model(kind, config, schema, folder / ARRAYS), folder / ARRAYS),
        items,
        users,
        catalog,
        metadata,
        lambda: _read_log(folder, metadata, items, users, catalog),
        training_history=tuple(metadata.get("training_history", ())),
        test_readings=list(metadata.get("test_readings", ())),
        text_encodings=read_text_encodings(folder / TEXT, metadata, "text"),
        user_text_encodings=read_text_encodings(folder / USER_TEXT, metadata, "user_text"),
        knowledge=_read_knowledge(folder, metadata, len(items)),
        folder=folder,
    )


def _create_model(kind: type[Model], config: Settings, schema: DataSchema, arrays: Path) -> Model:
    """Create an untrained model.

    Raises:
        ValueError: the settings and the schema do not fit each other, or the model would need much more memory than the
            file of its arrays has bytes.
    """
    size = check_regular_file(arrays)
    try:
        if kind.exceeds_memory(config, schema, size + MAX_MISSING_BYTES):
            raise ValueError(f"{arrays}: has {size} bytes, a model with these settings has larger arrays")
        return kind(config, schema)
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        raise ValueError(f"{arrays.parent / 'bundle.json'}: malformed: the settings do not fit: {error!r}") from None


def restore_model(model: Model, path: Path) -> Model:
    """Load the arrays of ``model`` from a file and return the model.

    Raises:
        ValueError: the arrays are not finite or do not fit the model; the message names the file.
    """
    arrays = load_arrays(path)
    try:
        model.restore(arrays)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return model


def verify(folder: Path) -> list[str]:
    """List the files of a bundle that are missing or changed, one line each.

    The list is empty if all hashes match.
    """
    try:
        return find_damage(folder, _read_metadata(folder / "bundle.json")["sha256"])
    except ValueError as error:
        return [str(error)]


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read ``bundle.json`` and check that it lists what :func:`load` needs."""
    metadata = read_checked_json(path, is_required=False)
    if metadata.get("format") not in (1, FORMAT):
        raise ValueError(f"{path}: bundle format {metadata.get('format')}, this Segue reads 1 to {FORMAT}")
    if metadata["format"] > 1:
        metadata = read_checked_json(path)
    types = {"model": str, "config": dict, "schema": dict, "sha256": dict}
    optional = {"id_types": dict, "training_history": list, "test_readings": list, "log": dict, "user_features": list}
    optional |= {"text": list, "user_text": list, "knowledge": dict}
    wrong = [name for name, kind in types.items() if not isinstance(metadata.get(name), kind)]
    wrong += [name for name, kind in optional.items() if not isinstance(metadata.get(name, kind()), kind)]
    if wrong:
        expected = {**types, **optional}[wrong[0]].__name__
        raise ValueError(f"{path}: malformed: '{wrong[0]}' is missing or not a {expected}")
    for name in ("training_history", "test_readings"):
        if not all(isinstance(line, dict) for line in metadata.get(name, ())):
            raise ValueError(f"{path}: malformed: '{name}' is not a list of objects")
    files = {"log": [HISTORIES], "text": [TEXT], "user_text": [USER_TEXT], "knowledge": [KNOWLEDGE, ENTITIES]}
    required = [*REQUIRED, *(name for key, names in files.items() if key in metadata for name in names)]
    if missing := [name for name in required if name not in metadata["sha256"]]:
        raise ValueError(f"{path}: malformed: no hash of {', '.join(missing)}")
    return metadata


def read_schema(values: Mapping[str, Any]) -> DataSchema:
    """Read a schema from JSON; older bundles list no features.

    Raises:
        AttributeError, KeyError, TypeError: a value is missing, has another type or is out of range.
    """
    tuples: dict[str, Any] = {"actions": tuple(values["actions"])}
    for name in ("item_features", "user_features", "event_context"):
        listed = [{**feature, "categories": tuple(feature["categories"])} for feature in values.get(name, [])]
        tuples[name] = tuple(Feature(**feature) for feature in listed)
    tuples["fields"] = tuple(Field(**one) for one in values.get("fields", []))
    schema = DataSchema(**{**values, **tuples})
    _check_schema(schema)
    return schema


def _check_schema(schema: DataSchema) -> None:
    """Check the types and ranges of a schema that was read from JSON.

    Raises:
        TypeError: a value has another type or is out of range.
    """
    sizes = schema.n_users, schema.n_items, schema.n_without_events, schema.n_entities, schema.n_relations
    if not all(type(size) is int and size >= 0 for size in sizes) or schema.n_without_events > schema.n_items:
        raise TypeError(f"schema: {sizes[0]!r} users, {sizes[1]!r} items, {sizes[2]!r} of them without events")
    features = (*schema.item_features, *schema.user_features, *schema.event_context)
    names = [*schema.actions, *(one.name for one in features)]
    names += [name for one in features for name in one.categories]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise TypeError(f"schema: the name {wrong[0]!r} of an action, a feature or a category is not text")
    if schema.target is not None and not (type(schema.target) is int and 0 <= schema.target < len(schema.actions)):
        raise TypeError(
            f"schema: target {schema.target!r}, expected the number of one of {len(schema.actions)} actions"
        )
    for feature in features:
        numbers = feature.center, feature.scale
        is_finite = all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        if (
            feature.kind not in get_args(FeatureKind)
            or type(feature.size) is not int
            or feature.size < 1
            or not is_finite
        ):
            raise TypeError(f"schema: malformed feature {feature!r}")


def _vocab(path: Path, size: int, id_type: str) -> Vocab:
    check_id_table(path, size)
    return Vocab(lambda: read_ids(path), size, id_type)


def write_text_encodings(path: Path, encodings: Sequence[TextEncoding]) -> list[dict[str, Any]]:
    """Write what text encoders learned, and return their settings."""
    arrays = {f"{at}/{name}": array for at, one in enumerate(encodings) for name, array in one.arrays.items()}
    save_arrays(path, arrays)
    return [{"settings": dict(one.settings), "digest": one.digest} for one in encodings]


def read_text_encodings(path: Path, metadata: Mapping[str, Any], key: str) -> tuple[TextEncoding, ...]:
    """Read what :func:`write_text_encodings` wrote.

    What it returned is ``metadata[key]``.
    """
    listed = metadata.get(key, ())
    arrays = load_arrays(path) if listed else {}
    found = []
    for at, one in enumerate(listed):
        if not (isinstance(one, dict) and isinstance(one.get("settings"), dict) and isinstance(one.get("digest"), str)):
            raise ValueError(f"{path.parent}: malformed: {key}: got {one!r}, expected settings and digest")
        own = {name.partition("/")[2]: array for name, array in arrays.items() if name.partition("/")[0] == str(at)}
        found.append(TextEncoding(one["settings"], own, one["digest"]))
    return tuple(found)


def _write_knowledge(folder: Path, knowledge: Knowledge) -> dict[str, Any]:
    """Write triples and ids of entities, and return the names of the relations."""
    save_arrays(folder / KNOWLEDGE, {name: getattr(knowledge, name) for name in KNOWLEDGE_ARRAYS})
    pl.DataFrame({"id": knowledge.entities.ids}).write_parquet(folder / ENTITIES)
    return {"relations": list(knowledge.relations), "entities": len(knowledge.entities)}


def _read_knowledge(folder: Path, metadata: Mapping[str, Any], n_items: int) -> Knowledge | None:
    about = metadata.get("knowledge")
    if about is None:
        return None
    relations, size, arrays = about.get("relations"), about.get("entities"), load_arrays(folder / KNOWLEDGE)
    is_valid = isinstance(relations, list) and all(isinstance(name, str) for name in relations)
    if not is_valid or type(size) is not int or set(arrays) != set(KNOWLEDGE_ARRAYS):
        raise ValueError(
            f"{folder / 'bundle.json'}: malformed: knowledge: got {about!r}, expected relations and entities"
        )
    try:
        found = Knowledge(_vocab(folder / ENTITIES, size, "string"), tuple(relations), **arrays)
        if found.n_items != n_items:
            raise ValueError(f"got entities of {found.n_items} items, expected {n_items}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / KNOWLEDGE}: malformed: {error}") from None
    return found


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
    return {
        "name": log.name,
        **({"context": log.header["context"]} if "context" in log.header else {}),
        "actions": list(log.actions),
        "target": log.target,
        "hash": log.header.get("hash"),
        "has_held_out": trained.load_train_log is not None or trained.log_has_held_out,
    }


def _read_log(folder: Path, metadata: Mapping[str, Any], items: Vocab, users: Vocab, catalog: pl.LazyFrame) -> Dataset:
    about = metadata.get("log")
    if about is None:
        raise ValueError(f"{folder}: this model was stored without its interaction log")
    path = folder / HISTORIES
    arrays = load_arrays(path)
    known = {name: arrays.pop(name) for name in ("offsets", "items", "actions", "values", "times") if name in arrays}
    try:
        histories = Events(**known, context=arrays)
        check_codes(histories, len(users), len(items), len(about["actions"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: malformed: {error}") from None
    return Dataset(
        name=about["name"],
        users=users,
        items=items,
        histories=histories,
        actions=tuple(about["actions"]),
        target=about["target"],
        item_features=catalog,
        user_features=pl.scan_parquet(folder / "users.parquet"),
        header={
            "hash": about["hash"],
            "folder": str(folder),
            **({"context": about["context"]} if "context" in about else {}),
        },
    )
