"""Models within a model: built by key and stored in its arrays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from segue.core.bundle import read_schema
from segue.core.config import parse, suggest
from segue.core.model import Model, Solver, StateArrays
from segue.core.model_arrays import load_array
from segue.core.registry import model_class, model_keys
from segue.core.types import DataSchema, Feature

__all__ = [
    "base_arrays",
    "build_base",
    "check_base",
    "check_restorable",
    "combine_schemas",
    "restore_base",
    "restore_member",
]

MAX_MISSING_BYTES = 2_000_000
"""Size of arrays that may be missing in a file before a model is created to name them."""


def check_base(key: str, settings: Mapping[str, Any], excluded: Sequence[str], where: str = "base") -> None:
    """Check that ``key`` is a model that can be a base, and its ``settings``.

    Args:
        excluded: keys of models that have bases themselves.
        where: name of the setting with the key, for errors.

    Raises:
        ValueError: the key or a setting is unknown, or the model is trained in epochs or has bases itself.
    """
    if key == "llm":
        raise ValueError(
            f"{where}: got 'llm', which has a time limit only as the outermost model; expected another model; to "
            "rerank the combination, train llm with the combination as its base"
        )
    if key not in model_keys():
        raise ValueError(f"{where}: unknown model '{key}'{suggest(key, model_keys())}")
    kind = model_class(key)
    if key in excluded or not issubclass(kind, Solver):
        reason = "has base models itself" if key in excluded else "is trained in epochs"
        raise ValueError(f"{where}: '{key}' {reason}; expected a model that does not, such as popular or user_knn")
    parse(kind.Config, settings, f"base_settings: {key}")


def build_base(key: str, settings: Mapping[str, Any], schema: DataSchema) -> Solver:
    """Build the untrained model ``key``, which :func:`check_base` has checked."""
    kind = model_class(key)
    model = kind(parse(kind.Config, settings, f"model.base_settings: {key}"), schema)
    assert isinstance(model, Solver)
    return model


def base_arrays(model: Model, name: str) -> dict[str, Any]:
    """Return the arrays of a model within another; their names start with ``name``.

    The array ``members/name`` holds the settings and the schema of the model as JSON.
    """
    about = {"config": model.config.model_dump(mode="json"), "schema": asdict(model.schema)}
    described = {f"members/{name}": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    return described | {f"{name}/{key}": array for key, array in model.arrays().items()}


def combine_schemas(schema: DataSchema, models: Iterable[Model]) -> DataSchema:
    """Return ``schema`` with the features that any of the ``models`` reads.

    Of a feature that several models encode differently, the first encoding is listed, with the categories of all.
    """
    found: dict[str, dict[str, Feature]] = {"item_features": {}, "user_features": {}, "event_context": {}}
    for model in models:
        for field, features in found.items():
            for one in getattr(model.schema, field):
                first = features.setdefault(one.name, one)
                if first.kind == one.kind:
                    features[one.name] = replace(
                        first, categories=tuple(dict.fromkeys((*first.categories, *one.categories)))
                    )
    changes: dict[str, Any] = {field: tuple(features.values()) for field, features in found.items()}
    return replace(schema, **changes)


def check_restorable(model: Solver) -> None:
    """Check that a trained model can be restored from its arrays.

    Raises:
        ValueError: it cannot.
    """
    try:
        type(model)(model.config, replace(model.schema)).restore(model.arrays())
    except ValueError as error:
        raise ValueError(
            f"{type(model).__name__}: the trained model cannot be restored from its arrays: {error}"
        ) from None


def restore_base(model: Solver, schema: DataSchema, arrays: StateArrays, name: str) -> None:
    """Restore a base model from the arrays of the whole model.

    Args:
        schema: of the whole model.

    Raises:
        ValueError: an array is missing or has another shape.
    """
    model.schema = _read_description(schema, arrays, name)[1]
    own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
    try:
        model.restore(own)
    except ValueError as error:  # it names arrays as the base model does
        raise ValueError(re.sub(r"(array '|events\.)", rf"\g<1>{name}/", str(error))) from None


def restore_member(key: str, schema: DataSchema, arrays: StateArrays) -> Model:
    """Create a trained model from what :func:`base_arrays` returned.

    Args:
        key: key of the model, which is also the start of the names of its arrays.
        schema: of the whole model.

    Raises:
        ValueError: the arrays do not fit the settings.
    """
    settings, schema = _read_description(schema, arrays, key)
    kind = model_class(key)
    config = parse(kind.Config, settings, f"array 'members/{key}' in the saved model: config")
    own = {name.removeprefix(f"{key}/"): one for name, one in arrays.items() if name.startswith(f"{key}/")}
    size = sum(array.nbytes for array in own.values())
    if kind.exceeds_memory(config, schema, size + MAX_MISSING_BYTES):
        raise ValueError(f"arrays of the member '{key}': {size} bytes, its settings need larger arrays")
    model = kind(config, schema)
    try:
        model.restore(own)
    except ValueError as error:  # it names arrays as the model does
        raise ValueError(re.sub(r"(array '|events\.)", rf"\g<1>{key}/", str(error))) from None
    return model


def _read_description(schema: DataSchema, arrays: StateArrays, name: str) -> tuple[dict[str, Any], DataSchema]:
    """Return the settings and the schema of a model within another.

    Args:
        schema: of the whole model, whose numbers of users and items apply.

    Raises:
        ValueError: the description is missing or malformed.
    """
    content = load_array(arrays, f"members/{name}", (None,), np.uint8).tobytes()
    try:
        about = json.loads(content)
        own = read_schema(about["schema"])
        return dict(about["config"]), replace(own, n_users=schema.n_users, n_items=schema.n_items)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"array 'members/{name}' in the saved model: malformed: {error!r}") from None
