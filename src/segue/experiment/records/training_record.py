"""Record what determines a training, so that its folder continues no other one.

The record is ``training.json``, beside the checkpoint: settings, seed, functions passed in Python, and hashes of the
data that training and validation read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from segue.core.files import read_json, write_json
from segue.core.types import Dataset, Events, HeldOut, Split, Vocab
from segue.evaluation.metrics import MetricLike
from segue.experiment.paths import SETTINGS
from segue.experiment.plan import Plan
from segue.experiment.records.code_hash import UnhashableValueError, hash_value

__all__ = [
    "RECORD",
    "check_training_folder",
    "check_unchanged",
    "describe_functions",
    "describe_plan",
    "describe_training_data",
    "hash_table",
    "unknown_parts",
]

RECORD = "training.json"

OTHER_FOLDERS = {
    SETTINGS: "a run; resume it with: segue train --resume {}; or use another folder",
    "bundle.json": "a saved model, expected a new folder or one of an earlier training",
    "header.json": "a prepared dataset, expected a new folder or one of an earlier training",
}
"""Folders that are no folders of a training in Python, by a file that they have."""


def describe_plan(plan: Plan) -> dict[str, Any]:
    """Return the settings of a plan that determine the trained model, by name."""
    values = plan.values()
    settings = {f"{group}.{key}": value for group in ("model", "training") for key, value in values[group].items()}
    return {
        **settings,
        "name": plan.task.model,
        "seed": plan.run.seed,
        "evaluation.exclude_seen": plan.evaluation.exclude_seen,
    }


def describe_functions(loss: Any, metric: MetricLike, callbacks: Sequence[Any]) -> dict[str, Any]:
    """Return the names of a loss, a metric and callbacks, functions with a hash.

    See :mod:`segue.experiment.records.code_hash`. Callbacks observe a training, so attributes of a callback that cannot
    be hashed are compared by their type.
    """
    return {
        "loss": _describe("the loss", getattr(loss, "function", loss)),
        "metric": _describe("the metric", metric),
        "callbacks": [_describe_callback(one) for one in callbacks],
    }


def describe_training_data(data: Split | Dataset) -> dict[str, Any]:
    """Return counts and hashes of the data that training and validation read."""
    train = data.train if isinstance(data, Split) else data
    found: dict[str, Any] = {
        "data.name": train.name,
        "data.users": train.n_users,
        "data.items": train.n_items,
        "data.actions": [list(train.actions), train.target],
        "data.events": train.histories.size,
        "data.source_hash": train.header.get("hash"),
        "data.user_ids": _hash_ids(train.users),
        "data.item_ids": _hash_ids(train.items),
        "data.user_features": hash_table(train.user_features),
        "data.item_features": hash_table(train.item_features),
        "data.training_hash": _hash_columns(_columns("", train.histories)),
    }
    if isinstance(data, Split):
        found["data.validation_queries"] = len(data.valid)
        found["data.validation_hash"] = _hash_columns(_validation_columns(data.valid))
        found["data.validation_features"] = hash_table(data.valid.queries.profile)
    return found


def check_training_folder(folder: Path) -> None:
    """Check that a training may write to ``folder``.

    Raises:
        ValueError: it is a file, or belongs to a run, a saved model, a prepared dataset or something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: '{folder}' is a file, expected a new folder or one of an earlier training")
    for name, what in OTHER_FOLDERS.items():
        if (folder / name).exists():
            raise ValueError(f"folder: '{folder}' is the folder of {what.format(folder)}")
    if (folder / "history.jsonl").exists() and not (folder / RECORD).exists():
        raise ValueError(
            f"folder: '{folder}' has a history.jsonl and no {RECORD}, so it belongs to something else, expected a new "
            "folder or one of an earlier training"
        )


def check_unchanged(folder: Path, record: Mapping[str, Any]) -> None:
    """Store what determines a training, or compare it with what ``folder`` holds.

    Raises:
        ValueError: the folder has a checkpoint of other settings or data, or one that cannot be compared; one line per
            difference.
    """
    path = folder / RECORD
    record = json.loads(json.dumps(record))
    if (folder / "checkpoint").exists():
        before = read_json(path) if path.exists() else {}
        names = sorted(record.keys() | before.keys())
        differences = [
            text for name in names if (text := _difference(name, record.get(name), before.get(name))) is not None
        ]
        if not before:
            differences = [f"{RECORD} is missing, so its settings and data are unknown"]
        if differences:
            lines = "\n  ".join(differences)
            raise ValueError(
                f"{folder}: holds a checkpoint of another training; use another folder, or remove it:\n  {lines}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def unknown_parts(record: Mapping[str, Any]) -> list[str]:
    """Return why parts of a record cannot be compared, one text each."""
    values = [part for value in record.values() for part in (value if isinstance(value, list) else [value])]
    return [str(value["unknown"]) for value in values if isinstance(value, Mapping) and "unknown" in value]


def _difference(name: str, here: Any, there: Any) -> str | None:
    """Describe how two values of a record differ; ``None`` if they are the same."""
    if unknown := [*unknown_parts({name: here}), *unknown_parts({name: there})]:
        return f"{name}: {unknown[0]}, so it may have changed"
    return None if here == there else f"{name}: {here!r} here, {there!r} there"


def _describe(what: str, value: Any) -> Any:
    """Return a name as it is, and a function or object by name and hash.

    If it cannot be hashed, the reason is returned as a mapping.
    """
    if type(value) is str:
        return value
    name = f"{getattr(value, '__module__', type(value).__module__)}:{_name(value)}"
    try:
        return f"{name} {hash_value(value, what)[:16]}"
    except UnhashableValueError as error:
        return {"name": name, "unknown": f"{what} {name}: {error}"}


def _describe_callback(callback: Any) -> Any:
    attributes = {}
    for key, value in getattr(callback, "__dict__", {}).items():
        try:
            attributes[key] = hash_value(value, key)
        except UnhashableValueError:
            attributes[key] = _name(type(value))
    found = _describe("the callback", type(callback))
    return found if isinstance(found, dict) else f"{found} {hash_value(attributes, 'attributes')[:16]}"


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _columns(prefix: str, events: Events) -> dict[str, NDArray[Any]]:
    columns = {"offsets": events.offsets, **events.columns()}
    return {f"{prefix}{name}": column for name, column in columns.items()}


def _validation_columns(valid: HeldOut) -> dict[str, NDArray[Any]]:
    queries = valid.queries
    columns = {name: getattr(queries, name) for name in ("users", "known", "times", "time_known")}
    columns |= {f"context.{name}": column for name, column in queries.context.items()}
    return {
        **_columns("history.", queries.history),
        **_columns("targets.", valid.targets),
        **{name: column for name, column in columns.items() if column is not None},
    }


def _hash_columns(columns: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for name in sorted(columns):
        array = np.ascontiguousarray(columns[name])
        found.update(f"{name} {array.dtype} {array.shape} ".encode())
        found.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.data)
    return found.hexdigest()[:16]


def _hash_ids(vocab: Vocab) -> str:
    ids = vocab.ids
    lengths = ids.str.len_bytes().to_numpy()
    return _hash_columns({"lengths": lengths, "text": np.frombuffer("".join(ids).encode(), np.uint8)})


def hash_table(table: pl.LazyFrame | pl.DataFrame | None) -> Any:
    """Return a hash of the names, types and values of a table; ``None`` of no table."""
    if table is None:
        return None
    frame = table.lazy().with_columns(pl.col(pl.Categorical).cast(pl.String)).collect()
    if unknown := [name for name, dtype in frame.schema.items() if dtype == pl.Object]:
        return {"unknown": f"the feature '{unknown[0]}' holds Python objects, which cannot be compared"}
    buffer = io.BytesIO()
    frame.rechunk().write_ipc(buffer, compression="uncompressed")
    return hashlib.sha256(buffer.getbuffer()).hexdigest()[:16]
